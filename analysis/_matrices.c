/* Counts behind the texture matrices (IBSI 3.6 to 3.11), in one pass over each direction of a labelled image.

   `matrices.py` is the only caller and documents the arrays. A copy with a border of empty voxels all round is made
   first, so that no neighbour needs a bounds check. Stable ABI: no NumPy headers, any buffer will do. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define DEPENDENCES 27 /* 0 to 26 neighbours of the same level */

typedef struct {
    Py_ssize_t slices, rows, columns; /* without the border */
    Py_ssize_t pitch, plane, size;    /* with it: one row on, one slice on, all voxels */
    Py_ssize_t levels;
    Py_ssize_t longest; /* run, voxels */
    uint16_t *level;    /* 0: outside the ROI */
    int32_t *grey;      /* the grey level itself */
    Py_ssize_t *first, *stop; /* of each row: where the ROI begins and has ended */
} Image;

static Py_ssize_t start_of(const Image *image, Py_ssize_t row)
{
    return (row / image->rows + 1) * image->plane + (row % image->rows + 1) * image->pitch + 1;
}

static void release(Image *image)
{
    free(image->level);
    free(image->grey);
    free(image->first);
    free(image->stop);
}

/* 0, -1: no memory, -2: a level that is none. */
static int with_border(Image *image, const uint16_t *level, const int32_t *grey)
{
    Py_ssize_t count = image->slices * image->rows;
    image->pitch = image->columns + 2;
    image->plane = image->pitch * (image->rows + 2);
    image->size = image->plane * (image->slices + 2);
    image->level = calloc((size_t)image->size, sizeof(uint16_t));
    image->grey = calloc((size_t)image->size, sizeof(int32_t));
    image->first = calloc((size_t)count, sizeof(Py_ssize_t));
    image->stop = calloc((size_t)count, sizeof(Py_ssize_t));
    if (!image->level || !image->grey || !image->first || !image->stop)
        return -1;
    for (Py_ssize_t row = 0; row < count; row++, level += image->columns) {
        Py_ssize_t start = start_of(image, row), first = image->columns, stop = 0;
        for (Py_ssize_t x = 0; x < image->columns; x++) {
            if (!level[x])
                continue;
            if (level[x] > image->levels)
                return -2;
            image->level[start + x] = level[x];
            image->grey[start + x] = grey[level[x]];
            if (x < first)
                first = x;
            stop = x + 1;
        }
        image->first[row] = first;
        image->stop[row] = stop;
    }
    return 0;
}

/* Pairs (GLCM) and runs (GLRLM) along one direction; `step` is the way to the next voxel, forward in memory. */
static void along(const Image *image, Py_ssize_t step, int32_t *pairs, int32_t *runs, int32_t *length)
{
    const uint16_t *level = image->level;
    for (Py_ssize_t row = 0; row < image->slices * image->rows; row++) {
        Py_ssize_t start = start_of(image, row);
        for (Py_ssize_t i = start + image->first[row]; i < start + image->stop[row]; i++) {
            uint16_t own = level[i], next = level[i + step];
            int32_t run;
            if (!own)
                continue;
            pairs[own * (image->levels + 1) + next]++;
            /* sums instead of branches: in a noisy image no processor guesses them */
            run = (level[i - step] == own) * length[i - step] + 1;
            length[i] = run;
            runs[own * (image->longest + 1) + run] += next != own;
        }
    }
}

/* Neighbours of the same level (GLDM) and difference from the neighbours' mean (NGTDM), row by row. */
static int around(const Image *image, const Py_ssize_t *step, int steps, int32_t *dependence, double *tones)
{
    size_t width = (size_t)image->columns;
    int32_t *sum = malloc(width * sizeof(int32_t));
    uint16_t *same = malloc(width * sizeof(uint16_t)), *inside = malloc(width * sizeof(uint16_t));
    int made = sum && same && inside;
    for (Py_ssize_t row = 0; made && row < image->slices * image->rows; row++) {
        Py_ssize_t first = image->first[row], width_here = image->stop[row] - first;
        const uint16_t *own = image->level + start_of(image, row) + first;
        const int32_t *grey = image->grey + start_of(image, row) + first;
        for (Py_ssize_t x = 0; x < width_here; x++)
            sum[x] = 0, same[x] = inside[x] = 0;
        for (int n = 0; n < 2 * steps; n++) {
            const uint16_t *other = own + (n < steps ? step[n] : -step[n - steps]);
            const int32_t *tone = grey + (n < steps ? step[n] : -step[n - steps]);
            for (Py_ssize_t x = 0; x < width_here; x++) {
                same[x] += other[x] == own[x];
                inside[x] += other[x] != 0;
            }
            for (Py_ssize_t x = 0; x < width_here; x++)
                sum[x] += tone[x];
        }
        for (Py_ssize_t x = 0; x < width_here; x++) {
            if (!own[x])
                continue;
            dependence[own[x] * DEPENDENCES + same[x]]++;
            tones[2 * own[x]] += 1;
            if (inside[x])
                tones[2 * own[x] + 1] += fabs(grey[x] - (double)sum[x] / inside[x]);
        }
    }
    free(sum);
    free(same);
    free(inside);
    return made ? 0 : -1;
}

/* Zones (GLSZM): level and size of each. Empties `image->level`. Gives their number, or -1. */
static Py_ssize_t zones_of(Image *image, const Py_ssize_t *step, int steps, int32_t *zones, Py_ssize_t room)
{
    uint16_t *level = image->level;
    int32_t *waiting = malloc((size_t)room * sizeof(int32_t)); /* a voxel waits once at most */
    Py_ssize_t found = 0;
    if (!waiting)
        return -1;
    for (Py_ssize_t row = 0; row < image->slices * image->rows; row++) {
        Py_ssize_t start = start_of(image, row);
        for (Py_ssize_t i = start + image->first[row]; i < start + image->stop[row]; i++) {
            uint16_t own = level[i];
            Py_ssize_t filled = 0;
            int32_t size = 0;
            if (!own)
                continue;
            level[i] = 0;
            waiting[filled++] = (int32_t)i;
            while (filled) {
                Py_ssize_t here = waiting[--filled];
                size++;
                for (int n = 0; n < steps; n++) {
                    if (level[here + step[n]] == own) {
                        level[here + step[n]] = 0;
                        waiting[filled++] = (int32_t)(here + step[n]);
                    }
                    if (level[here - step[n]] == own) {
                        level[here - step[n]] = 0;
                        waiting[filled++] = (int32_t)(here - step[n]);
                    }
                }
            }
            zones[2 * found] = own;
            zones[2 * found + 1] = size;
            found++;
        }
    }
    free(waiting);
    return found;
}

static int directions(const Image *image, int flat, Py_ssize_t *step)
{
    int steps = 0;
    for (int z = 0; z <= (flat ? 0 : 1); z++)
        for (int y = -1; y <= 1; y++)
            for (int x = -1; x <= 1; x++)
                if (z > 0 || y > 0 || (y == 0 && x > 0))
                    step[steps++] = z * image->plane + y * image->pitch + x;
    return steps;
}

typedef struct {
    Py_buffer level, grey, pairs, runs, dependence, tones, zones;
} Arrays;

/* Whether every array has the room that the image's size and levels ask for. */
static int fits(const Image *image, const Arrays *given, int steps, Py_ssize_t inside)
{
    Py_ssize_t levels = image->levels + 1;
    return given->level.len == image->slices * image->rows * image->columns * (Py_ssize_t)sizeof(uint16_t) &&
           given->grey.len == levels * (Py_ssize_t)sizeof(int32_t) &&
           given->pairs.len == steps * levels * levels * (Py_ssize_t)sizeof(int32_t) &&
           given->runs.len == steps * levels * (image->longest + 1) * (Py_ssize_t)sizeof(int32_t) &&
           given->dependence.len == levels * DEPENDENCES * (Py_ssize_t)sizeof(int32_t) &&
           given->tones.len == levels * 2 * (Py_ssize_t)sizeof(double) &&
           given->zones.len == inside * 2 * (Py_ssize_t)sizeof(int32_t);
}

static Py_ssize_t inside_of(const Arrays *given)
{
    const uint16_t *level = given->level.buf;
    Py_ssize_t inside = 0;
    for (Py_ssize_t i = 0; i < given->level.len / (Py_ssize_t)sizeof(uint16_t); i++)
        inside += level[i] != 0;
    return inside;
}

/* Number of zones, or -1: no memory, -2: wrong arrays. */
static Py_ssize_t count_all(Image *image, Arrays *given, int flat)
{
    Py_ssize_t step[13], inside = inside_of(given), zones;
    int32_t *length;
    int steps, state;
    image->pitch = image->columns + 2;
    image->plane = image->pitch * (image->rows + 2);
    steps = directions(image, flat, step);
    if (!fits(image, given, steps, inside))
        return -2;
    state = with_border(image, given->level.buf, given->grey.buf);
    if (state)
        return state;
    length = calloc((size_t)image->size, sizeof(int32_t));
    if (!length)
        return -1;
    for (int n = 0; n < steps; n++)
        along(image, step[n], (int32_t *)given->pairs.buf + n * (image->levels + 1) * (image->levels + 1),
              (int32_t *)given->runs.buf + n * (image->levels + 1) * (image->longest + 1), length);
    free(length);
    if (around(image, step, steps, given->dependence.buf, given->tones.buf))
        return -1;
    zones = zones_of(image, step, steps, given->zones.buf, inside + 1);
    return zones;
}

static PyObject *count(PyObject *self, PyObject *arguments)
{
    Image image = {0};
    Arrays given;
    Py_ssize_t zones = -2;
    int flat;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "y*nnnny*pw*w*w*w*w*:count", &given.level, &image.slices, &image.rows,
                          &image.columns, &image.levels, &given.grey, &flat, &given.pairs, &given.runs,
                          &given.dependence, &given.tones, &given.zones))
        return NULL;
    image.longest = image.slices > image.rows ? image.slices : image.rows;
    if (image.columns > image.longest)
        image.longest = image.columns;
    /* each edge far below the root of the largest index, so that no product overflows */
    if (image.slices > 0 && image.rows > 0 && image.columns > 0 && image.longest < 65536 && image.levels > 0 &&
        image.levels < 65536 && (image.slices + 2) * (image.rows + 2) * (image.columns + 2) < INT32_MAX) {
        Py_BEGIN_ALLOW_THREADS
        zones = count_all(&image, &given, flat);
        release(&image);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&given.level);
    PyBuffer_Release(&given.grey);
    PyBuffer_Release(&given.pairs);
    PyBuffer_Release(&given.runs);
    PyBuffer_Release(&given.dependence);
    PyBuffer_Release(&given.tones);
    PyBuffer_Release(&given.zones);
    if (zones == -1)
        return PyErr_NoMemory();
    if (zones < 0) {
        PyErr_SetString(PyExc_ValueError, "arrays do not fit the image's size and number of levels");
        return NULL;
    }
    return PyLong_FromSsize_t(zones);
}

static PyMethodDef methods[] = {
    {"count", count, METH_VARARGS, "Fill the arrays; gives the number of zones. See analysis.matrices."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_matrices", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__matrices(void)
{
    return PyModule_Create(&module);
}

/* The largest distance between two of some points, by looking at all pairs that can have it.

   `shape.py` is the only caller. Stable ABI: no NumPy headers, any buffer of doubles will do. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDING (1 - 1e-9) /* what the bounds below may be wrong by */

typedef struct {
    double at[3], radius;
} Point;

static int outermost_first(const void *one, const void *other)
{
    double a = ((const Point *)one)->radius, b = ((const Point *)other)->radius;
    return (a < b) - (a > b);
}

static double squared(const Point *one, const Point *other)
{
    double x = one->at[0] - other->at[0], y = one->at[1] - other->at[1], z = one->at[2] - other->at[2];
    return x * x + y * y + z * z;
}

/* Two points are no further apart than the sum of their distances from any third, here the middle of their box. */
static double widest_of(Point *point, Py_ssize_t count)
{
    double low[3], high[3], most = 0, enough = 0;
    for (int axis = 0; axis < 3; axis++) {
        low[axis] = high[axis] = count ? point[0].at[axis] : 0;
        for (Py_ssize_t i = 1; i < count; i++) {
            low[axis] = fmin(low[axis], point[i].at[axis]);
            high[axis] = fmax(high[axis], point[i].at[axis]);
        }
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        Point middle = {{(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, (low[2] + high[2]) / 2}, 0};
        point[i].radius = sqrt(squared(&point[i], &middle));
    }
    qsort(point, (size_t)count, sizeof(Point), outermost_first);
    for (Py_ssize_t i = 0; i < count && 2 * point[i].radius >= enough; i++)
        for (Py_ssize_t j = i + 1; j < count && point[i].radius + point[j].radius >= enough; j++) {
            double here = squared(&point[i], &point[j]);
            if (here > most) {
                most = here;
                enough = sqrt(most) * ROUNDING;
            }
        }
    return sqrt(most);
}

static PyObject *widest(PyObject *self, PyObject *arguments)
{
    PyObject *points;
    Py_buffer given;
    Py_ssize_t count, dimensions;
    Point *point;
    double found = -1;
    int finite = 1;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "On:widest", &points, &dimensions) ||
        PyObject_GetBuffer(points, &given, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT))
        return NULL;
    if (!given.format || strcmp(given.format, "d")) {
        PyBuffer_Release(&given);
        PyErr_SetString(PyExc_ValueError, "points need to be doubles");
        return NULL;
    }
    if (dimensions < 1 || dimensions > 3 || given.len % (dimensions * (Py_ssize_t)sizeof(double))) {
        PyBuffer_Release(&given);
        PyErr_SetString(PyExc_ValueError, "points need 1 to 3 coordinates each");
        return NULL;
    }
    count = given.len / (dimensions * (Py_ssize_t)sizeof(double));
    point = calloc((size_t)count + 1, sizeof(Point));
    if (point) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count * dimensions; i++) {
            double here = ((const double *)given.buf)[i];
            finite = finite && isfinite(here);
            point[i / dimensions].at[i % dimensions] = here;
        }
        found = finite ? widest_of(point, count) : 0; /* NaN has no place in an order */
        free(point);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&given);
    if (!finite) {
        PyErr_SetString(PyExc_ValueError, "points need finite coordinates");
        return NULL;
    }
    return found < 0 ? PyErr_NoMemory() : PyFloat_FromDouble(found);
}

static PyMethodDef methods[] = {
    {"widest", widest, METH_VARARGS, "Largest distance between two of the points. See analysis.shape."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_diameter", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__diameter(void)
{
    return PyModule_Create(&module);
}

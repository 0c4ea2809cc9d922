/* Steps over the plain elements of a data set in memory. `outline.py` is the only caller, and says what is plain.

   Every length here comes from the network: nothing is read that has not been held against the end of the bytes.
   Stable ABI. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define CHARACTER_SET 0x00080005u
#define UNDEFINED 0xFFFFFFFFu

typedef struct {
    const unsigned char *at; /* tags, four bytes each, or VRs, two bytes each */
    Py_ssize_t bytes;
} Table;

static uint32_t little(const unsigned char *at, int bytes)
{
    uint32_t number = 0;
    while (bytes--)
        number = number << 8 | at[bytes];
    return number;
}

static int has(Table table, const void *one, Py_ssize_t width)
{
    for (Py_ssize_t i = 0; i < table.bytes; i += width)
        if (!memcmp(table.at + i, one, (size_t)width))
            return 1;
    return 0;
}

/* The element's bytes among those kept, and its value by its tag: 0, or -1 with an exception. */
static int keep(PyObject *kept, PyObject *values, uint32_t tag, const unsigned char *element, const unsigned char *value,
                const unsigned char *end)
{
    PyObject *whole = PyBytes_FromStringAndSize((const char *)element, end - element);
    PyObject *part = PyBytes_FromStringAndSize((const char *)value, end - value);
    PyObject *key = PyLong_FromUnsignedLong(tag);
    int failed = !whole || !part || !key || PyList_Append(kept, whole) || PyDict_SetItem(values, key, part);
    Py_XDECREF(whole);
    Py_XDECREF(part);
    Py_XDECREF(key);
    return failed ? -1 : 0;
}

/* Walks on from `position`; gives where it has stopped, or -1 with an exception. */
static Py_ssize_t walk(const unsigned char *data, Py_ssize_t size, Py_ssize_t position, Py_ssize_t *most, int implicit,
                       const Table *tables, uint32_t largest, PyObject *kept, PyObject *values, int *plain)
{
    while (size - position >= 12 && *most > 0) {
        const unsigned char *head = data + position;
        const unsigned char *vr = head + 4;
        unsigned char key[4] = {head[2], head[3], head[0], head[1]}; /* group, then element: a tag as one number */
        uint32_t group = little(head, 2), tag = group << 16 | little(head + 2, 2), letters = (uint32_t)vr[0] << 8 | vr[1];
        int stated = !implicit && letters >= 0x4141 && letters <= 0x5A5A; /* "AA" to "ZZ" */
        int far = stated && has(tables[2], vr, 2);
        uint32_t length = !stated ? little(vr, 4) : far ? little(head + 8, 4) : little(head + 6, 2);
        Py_ssize_t start = position + (far ? 12 : 8);
        if (group == 0xFFFE || length == UNDEFINED || length > (size_t)(size - start) || has(tables[1], key, 4))
            break;
        if (has(tables[0], key, 4)) {
            if (length > largest)
                break;
            if (keep(kept, values, tag, head, data + start, data + start + length))
                return -1;
            if (!implicit && (!has(tables[3], vr, 2) || (tag == CHARACTER_SET && memcmp(vr, "CS", 2))))
                *plain = 0;
        }
        --*most;
        position = start + (Py_ssize_t)length;
    }
    return position;
}

static PyObject *skim(PyObject *self, PyObject *arguments)
{
    const char *data, *given[4];
    Py_ssize_t size, position, most, lengths[4], left;
    int implicit, plain = 1;
    unsigned int largest;
    PyObject *kept, *values, *found = NULL;
    Table tables[4];
    (void)self;
    if (!PyArg_ParseTuple(arguments, "y#nnpIy#y#y#y#:skim", &data, &size, &position, &most, &implicit, &largest, &given[0],
                          &lengths[0], &given[1], &lengths[1], &given[2], &lengths[2], &given[3], &lengths[3]))
        return NULL;
    for (int i = 0; i < 4; i++) {
        tables[i].at = (const unsigned char *)given[i];
        tables[i].bytes = lengths[i];
        if (lengths[i] % (i < 2 ? 4 : 2)) {
            PyErr_SetString(PyExc_ValueError, "tags have four bytes, VRs two");
            return NULL;
        }
    }
    if (position < 0 || position > size) {
        PyErr_SetString(PyExc_ValueError, "the position is outside the data");
        return NULL;
    }
    left = most;
    kept = PyList_New(0);
    values = PyDict_New();
    if (kept && values)
        position = walk((const unsigned char *)data, size, position, &left, implicit, tables, largest, kept, values, &plain);
    if (kept && values && position >= 0)
        found = Py_BuildValue("(nnOOO)", position, most - left, kept, values, plain ? Py_True : Py_False);
    Py_XDECREF(kept);
    Py_XDECREF(values);
    return found;
}

static PyMethodDef methods[] = {
    {"skim", skim, METH_VARARGS, "Step over plain elements. See dicom_node.outline."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_skim", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__skim(void)
{
    return PyModule_Create(&module);
}

/* What Python sees: usbcast_schemas._native (see usbcast_schemas.engine.py, and _native.pyi for its signatures). */
#include "binding.h"

PyObject *failed(int error)
{
    switch ((UsbcastError)error) {
    case USBCAST_OK:
    case USBCAST_INTERRUPTED: /* by a signal's handler, which has raised */
        return NULL;
    case USBCAST_NO_MEMORY:
        return PyErr_NoMemory();
    case USBCAST_WAKE_FAILED:
        return PyErr_SetFromErrno(PyExc_OSError);
    case USBCAST_WRONG_SIZES:
        PyErr_SetString(PyExc_ValueError, "the memory is not as large as such a ring");
        return NULL;
    case USBCAST_TOO_LARGE:
        PyErr_SetString(PyExc_BufferError, "the batch is larger than the ring");
        return NULL;
    case USBCAST_SOCKET_FAILED:
        return zmq_failed(usbcast_zmq.error());
    }
    return NULL;
}

static PyMethodDef functions[] = {
    {"decode", (PyCFunction)(void (*)(void))decode, METH_FASTCALL, decode_doc},
    {"find_libzmq", find_libzmq, METH_O, find_libzmq_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The hot path of a batch, in C; see usbcast_schemas.engine.", -1, functions,
    NULL, NULL, NULL, NULL,
};

/* The type, which the module refers to; NULL with an exception. */
static PyTypeObject *added(PyObject *module, PyType_Spec *spec, const char *name)
{
    PyObject *type = PyType_FromSpec(spec);
    if (type && PyModule_AddObjectRef(module, name, type) < 0)
        Py_CLEAR(type);
    Py_XDECREF(type);
    return (PyTypeObject *)type;
}

/* What stands in C and in Python, by its name there: usbcast_schemas.engine compares them. */
static PyObject *all_constants(void)
{
    PyObject *made = Py_BuildValue("{si}", "IN_PLACE_BYTES", IN_PLACE_BYTES);
    for (const UsbcastConstant *constant = usbcast_constants; made && constant->name; constant++) {
        PyObject *value = PyLong_FromLongLong(constant->value);
        if (value == NULL || PyDict_SetItemString(made, constant->name, value) < 0)
            Py_CLEAR(made);
        Py_XDECREF(value);
    }
    return made;
}

PyMODINIT_FUNC PyInit__native(void)
{
    if (batch_ready() < 0 || stream_writer_ready() < 0 || messages_ready() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    maker_type = added(module, &maker_spec, "Maker");
    ring_type = maker_type ? added(module, &ring_spec, "Ring") : NULL;
    messages_type = ring_type ? added(module, &messages_spec, "Messages") : NULL;
    fanout_type = messages_type ? added(module, &fanout_spec, "Fanout") : NULL;
    sender_type = fanout_type ? added(module, &sender_spec, "Sender") : NULL;
    if (sender_type == NULL || !added(module, &stream_writer_spec, "StreamWriter") || !added(module, &stream_reader_spec, "StreamReader"))
        Py_CLEAR(module);
    PyObject *constants = module ? all_constants() : NULL;
    if (constants == NULL || PyModule_AddObjectRef(module, "constants", constants) < 0)
        Py_CLEAR(module);
    Py_XDECREF(constants);
    return module;
}

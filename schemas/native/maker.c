/* Objects that are made for each batch, without a call of Python code: a class says which attributes it has, once, and nobody here knows
 * their names. The caller gives some of them each time, in the order that the class named them; the others are constants. */
#include "binding.h"

#include <stddef.h>

PyTypeObject *maker_type;

static void set_attribute(Attribute *to, PyTypeObject *type, PyObject *name, PyObject *value)
{
    Py_INCREF(name);
    PyUnicode_InternInPlace(&name);
    Py_XINCREF(value);
    to->name = name;
    to->value = value;
    /* Of a class with __slots__ the attribute is a descriptor, which sets it faster than its name does. */
    to->descriptor = PyObject_GetAttr((PyObject *)type, name);
    PyErr_Clear();
    to->set = to->descriptor ? (descrsetfunc)PyType_GetSlot(Py_TYPE(to->descriptor), Py_tp_descr_set) : NULL;
}

static int maker_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Maker *self = (Maker *)object;
    PyObject *type, *given, *others, *name, *value;
    if (!PyArg_ParseTuple(args, "O!O!O!", &PyType_Type, &type, &PyTuple_Type, &given, &PyDict_Type, &others))
        return -1;
    if (self->type) {
        PyErr_SetString(PyExc_TypeError, "a maker is made once");
        return -1;
    }
    self->given = PyTuple_Size(given);
    self->attributes = PyMem_Calloc((size_t)(self->given + PyDict_Size(others)), sizeof *self->attributes);
    if (self->attributes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Py_INCREF(type);
    self->type = (PyTypeObject *)type;
    for (Py_ssize_t at = 0; at < self->given; at++) {
        if (!PyUnicode_Check(PyTuple_GetItem(given, at))) {
            PyErr_SetString(PyExc_TypeError, "the name of an attribute is a str");
            return -1;
        }
        set_attribute(&self->attributes[self->count++], self->type, PyTuple_GetItem(given, at), NULL);
    }
    for (Py_ssize_t at = 0; PyDict_Next(others, &at, &name, &value);) {
        if (!PyUnicode_Check(name)) {
            PyErr_SetString(PyExc_TypeError, "the name of an attribute is a str");
            return -1;
        }
        set_attribute(&self->attributes[self->count++], self->type, name, value);
    }
    return 0;
}

static void maker_dealloc(PyObject *object)
{
    Maker *self = (Maker *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (Py_ssize_t at = 0; at < self->count; at++) {
        Py_XDECREF(self->attributes[at].name);
        Py_XDECREF(self->attributes[at].value);
        Py_XDECREF(self->attributes[at].descriptor);
    }
    PyMem_Free(self->attributes);
    Py_XDECREF((PyObject *)self->type);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

PyObject *made_by(const Maker *self, PyObject *const *given)
{
    PyObject *nothing = PyTuple_New(0);
    PyObject *made = nothing ? ((newfunc)PyType_GetSlot(self->type, Py_tp_new))(self->type, nothing, NULL) : NULL;
    Py_XDECREF(nothing);
    for (Py_ssize_t at = 0; made && at < self->count; at++) {
        const Attribute *attribute = &self->attributes[at];
        PyObject *value = at < self->given ? given[at] : attribute->value;
        int failed = attribute->set ? attribute->set(attribute->descriptor, made, value)
                                    : PyObject_SetAttr(made, attribute->name, value);
        if (failed < 0)
            Py_CLEAR(made);
    }
    return made;
}

Maker *as_maker(PyObject *object, Py_ssize_t least, Py_ssize_t most)
{
    Maker *maker = Py_TYPE(object) == maker_type ? (Maker *)object : NULL;
    if (maker && maker->type && maker->given >= least && maker->given <= most)
        return maker;
    PyErr_Format(PyExc_TypeError, "this takes a Maker of %zd to %zd given attributes", least, most);
    return NULL;
}

static PyObject *maker_call(PyObject *object, PyObject *args, PyObject *kwargs)
{
    Maker *self = (Maker *)object;
    PyObject *values[MOST_GIVEN];
    Py_ssize_t count = PyTuple_Size(args);
    if (self->type == NULL || count != self->given || count > MOST_GIVEN || (kwargs && PyDict_Size(kwargs))) {
        PyErr_SetString(PyExc_TypeError, "a maker is called with the values of the given attributes");
        return NULL;
    }
    for (Py_ssize_t at = 0; at < count; at++)
        values[at] = PyTuple_GetItem(args, at);
    return made_by(self, values);
}

static PyType_Slot maker_slots[] = {
    {Py_tp_doc, "Maker(type, given, others): makes objects of `type` without calling its __init__. `given` are the names of the attributes\n"
                "whose values it is called with, in that order; `others` are those of the same value in all of them."},
    {Py_tp_init, maker_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, maker_dealloc},
    {Py_tp_call, maker_call},
    {0, NULL},
};

PyType_Spec maker_spec = {"usbcast_schemas._native.Maker", sizeof(Maker), 0, Py_TPFLAGS_DEFAULT, maker_slots};

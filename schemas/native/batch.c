/* Python objects of the bytes of a batch, and the other way. */
#include "binding.h"

/* The attributes of a transfer; and of the class of those that came last, the descriptors that hold them: they need no look-up. */
enum { DATA, REALTIME_NS, MONOTONIC_NS, ATTRIBUTES };

static PyObject *names[ATTRIBUTES];

static struct {
    PyTypeObject *type;
    PyObject *descriptors[ATTRIBUTES];
    descrgetfunc get[ATTRIBUTES]; /* NULL where the attribute is no such descriptor */
} known;

int batch_ready(void)
{
    names[DATA] = PyUnicode_InternFromString("data");
    names[REALTIME_NS] = PyUnicode_InternFromString("realtime_ns");
    names[MONOTONIC_NS] = PyUnicode_InternFromString("monotonic_ns");
    return PyErr_Occurred() ? -1 : 0;
}

static void learn(PyTypeObject *type)
{
    PyTypeObject *former = known.type;
    Py_INCREF(type);
    known.type = type;
    Py_XDECREF(former);
    for (int at = 0; at < ATTRIBUTES; at++) {
        PyObject *descriptor = PyObject_GetAttr((PyObject *)type, names[at]), *old = known.descriptors[at];
        PyErr_Clear();
        int holds_it = descriptor && PyType_GetSlot(Py_TYPE(descriptor), Py_tp_descr_set);
        known.get[at] = holds_it ? (descrgetfunc)PyType_GetSlot(Py_TYPE(descriptor), Py_tp_descr_get) : NULL;
        known.descriptors[at] = descriptor;
        Py_XDECREF(old);
    }
}

static PyObject *attribute(PyObject *transfer, int at)
{
    if (Py_TYPE(transfer) != known.type)
        learn(Py_TYPE(transfer));
    return known.get[at] ? known.get[at](known.descriptors[at], transfer, (PyObject *)known.type)
                         : PyObject_GetAttr(transfer, names[at]);
}

static int64_t int_attribute(PyObject *of, int at)
{
    PyObject *value = attribute(of, at);
    if (value == NULL)
        return -1;
    int64_t result = PyLong_AsLongLong(value);
    Py_DECREF(value);
    return result;
}

int take_piece(UsbcastPiece *piece, PyObject *transfer, uint32_t packet_size)
{
    PyObject *data = attribute(transfer, DATA);
    if (data == NULL)
        return -1;
    int whole = PyBytes_Check(data);
    if (whole) {
        piece->bytes = (const unsigned char *)PyBytes_AsString(data);
        piece->size = PyBytes_Size(data);
        whole = piece->size > 0 && piece->size % packet_size == 0;
    }
    Py_DECREF(data);
    if (!whole)
        return 0;
    piece->realtime_ns = int_attribute(transfer, REALTIME_NS);
    piece->monotonic_ns = int_attribute(transfer, MONOTONIC_NS);
    return PyErr_Occurred() ? -1 : 1;
}

/* `count` entries as a tuple. */
static PyObject *column(const unsigned char *at, Py_ssize_t count, int is_times)
{
    PyObject *made = PyTuple_New(count);
    for (Py_ssize_t i = 0; made && i < count; i++) {
        PyObject *value = is_times ? PyLong_FromLongLong((int64_t)usbcast_get64(at + 8 * i)) : PyLong_FromUnsignedLong(usbcast_get32(at + 4 * i));
        if (value == NULL)
            Py_CLEAR(made);
        else
            PyTuple_SetItem(made, i, value);
    }
    return made;
}

/* An Arrivals, which is a named tuple. */
static PyObject *all_arrivals(PyTypeObject *arrivals, const unsigned char *raw, const UsbcastPlain *plain)
{
    PyObject *made = ((allocfunc)PyType_GetSlot(arrivals, Py_tp_alloc))(arrivals, 3);
    if (made == NULL)
        return NULL;
    PyObject *columns[3] = {column(raw + plain->counts, plain->arrivals, 0), column(raw + plain->realtimes, plain->arrivals, 1),
                            column(raw + plain->monotonics, plain->arrivals, 1)};
    int failed = 0;
    for (int i = 0; i < 3; i++) {
        failed |= columns[i] == NULL;
        PyTuple_SetItem(made, i, columns[i]);
    }
    if (failed)
        Py_CLEAR(made);
    return made;
}

PyObject *decoded(PyObject *raw, const unsigned char *head, const unsigned char *bytes, const UsbcastPlain *plain, PyObject *payload,
                  uint64_t slot, const Maker *batch, PyTypeObject *arrivals)
{
    PyObject *given[GIVEN_IN_PLACE] = {
        [G_EPOCH] = PyLong_FromUnsignedLongLong(usbcast_batch_epoch(head)),
        [G_NUMBER] = PyLong_FromUnsignedLongLong(usbcast_batch_number(head)),
        [G_FIRST] = PyLong_FromUnsignedLongLong(usbcast_batch_first(head)),
        [G_COUNT] = PyLong_FromUnsignedLong(usbcast_batch_packets(head)),
        [G_SIZE] = PyLong_FromUnsignedLong(usbcast_batch_packet_size(head)),
        [G_ARRIVALS] = all_arrivals(arrivals, bytes, plain),
        [G_PAYLOAD] = payload,
        [G_SLOT] = batch->given > G_SLOT ? PyLong_FromUnsignedLongLong(slot) : NULL,
    };
    Py_INCREF(raw);
    given[G_RAW] = raw;
    int whole = 1;
    for (Py_ssize_t at = 0; at < batch->given; at++)
        whole &= given[at] != NULL;
    PyObject *made = whole ? made_by(batch, given) : NULL;
    for (int at = 0; at < GIVEN_IN_PLACE; at++)
        Py_XDECREF(given[at]);
    return made;
}

PyObject *decoded_bytes(PyObject *raw, const unsigned char *bytes, Py_ssize_t size, const UsbcastPlain *plain, const Maker *batch,
                        PyTypeObject *arrivals)
{
    PyObject *whole = PyMemoryView_FromObject(raw);
    PyObject *payload = whole ? PySequence_GetSlice(whole, (Py_ssize_t)plain->payload, size) : NULL;
    Py_XDECREF(whole);
    return payload ? decoded(raw, bytes, bytes, plain, payload, 0, batch, arrivals) : NULL;
}

const char decode_doc[] =
"decode(raw, major, batch, Arrivals)\n"
"-> what the Maker `batch` makes, or None where the bytes are not packets of one size with their arrivals and nothing else";

PyObject *decode(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    if (given != 4 || !PyBytes_Check(args[0]) || !PyType_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "decode takes bytes, a number, a maker and a type");
        return NULL;
    }
    const Maker *batch = as_maker(args[2], GIVEN_OF_BATCH, GIVEN_OF_BATCH);
    if (batch == NULL)
        return NULL;
    uint32_t major = (uint32_t)PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    const unsigned char *raw = (const unsigned char *)PyBytes_AsString(args[0]);
    Py_ssize_t size = PyBytes_Size(args[0]);
    UsbcastPlain plain = usbcast_plain_layout(raw, raw, size, major);
    if (plain.arrivals == 0)
        Py_RETURN_NONE;
    return decoded_bytes(args[0], raw, size, &plain, batch, (PyTypeObject *)args[3]);
}

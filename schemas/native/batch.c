/* Python objects of the bytes of a batch, and the other way. */
#include "binding.h"

static PyObject *s_data, *s_realtime_ns, *s_monotonic_ns;
static PyObject *s_batch[13]; /* the attributes of an EncodedBatch, in the order of its fields */
static const char *const BATCH_FIELDS[13] = {
    "raw", "epoch", "number", "first_sequence", "packet_count", "packet_size", "packet_ends",
    "arrivals", "losses", "events", "end", "payload", "holes"};
enum { F_RAW, F_EPOCH, F_NUMBER, F_FIRST, F_COUNT, F_SIZE, F_ENDS, F_ARRIVALS, F_LOSSES, F_EVENTS, F_END, F_PAYLOAD, F_HOLES };

int batch_ready(void)
{
    s_data = PyUnicode_InternFromString("data");
    s_realtime_ns = PyUnicode_InternFromString("realtime_ns");
    s_monotonic_ns = PyUnicode_InternFromString("monotonic_ns");
    for (int i = 0; i < 13; i++)
        s_batch[i] = PyUnicode_InternFromString(BATCH_FIELDS[i]);
    return PyErr_Occurred() ? -1 : 0;
}

static int64_t int_attribute(PyObject *of, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(of, name);
    if (value == NULL)
        return -1;
    int64_t result = PyLong_AsLongLong(value);
    Py_DECREF(value);
    return result;
}

int take_piece(UsbcastPiece *piece, PyObject *transfer, uint32_t packet_size)
{
    PyObject *data = PyObject_GetAttr(transfer, s_data);
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
    piece->realtime_ns = int_attribute(transfer, s_realtime_ns);
    piece->monotonic_ns = int_attribute(transfer, s_monotonic_ns);
    return PyErr_Occurred() ? -1 : 1;
}

static int set(PyObject *of, int field, PyObject *value)
{
    if (value == NULL)
        return -1;
    int failed = PyObject_SetAttr(of, s_batch[field], value);
    Py_DECREF(value);
    return failed;
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

/* `head` are the first bytes of `raw`, from a place where nobody writes; all of it is at `bytes`. */
PyObject *decoded(
    PyObject *raw, const unsigned char *head, const unsigned char *bytes, const UsbcastPlain *plain, PyObject *payload,
    PyTypeObject *batch, PyTypeObject *arrivals)
{
    PyObject *nothing = PyTuple_New(0);
    PyObject *made = nothing && payload ? ((newfunc)PyType_GetSlot(batch, Py_tp_new))(batch, nothing, NULL) : NULL;
    if (made == NULL) {
        Py_XDECREF(nothing);
        Py_XDECREF(payload);
        return NULL;
    }
    Py_INCREF(raw);
    Py_INCREF(Py_None);
    int failed = set(made, F_RAW, raw);
    failed |= set(made, F_END, Py_None);
    failed |= set(made, F_EPOCH, PyLong_FromUnsignedLongLong(usbcast_batch_epoch(head)));
    failed |= set(made, F_NUMBER, PyLong_FromUnsignedLongLong(usbcast_batch_number(head)));
    failed |= set(made, F_FIRST, PyLong_FromUnsignedLongLong(usbcast_batch_first(head)));
    failed |= set(made, F_COUNT, PyLong_FromUnsignedLong(usbcast_batch_packets(head)));
    failed |= set(made, F_SIZE, PyLong_FromUnsignedLong(usbcast_batch_packet_size(head)));
    failed |= set(made, F_ARRIVALS, all_arrivals(arrivals, bytes, plain));
    failed |= set(made, F_PAYLOAD, payload);
    static const int none[] = {F_ENDS, F_LOSSES, F_EVENTS, F_HOLES};
    for (int i = 0; i < 4; i++) {
        Py_INCREF(nothing);
        failed |= set(made, none[i], nothing);
    }
    Py_DECREF(nothing);
    if (failed)
        Py_CLEAR(made);
    return made;
}

/* `raw` is bytes, or a view of them, which are so many at `bytes`, and stay as they are. */
PyObject *decoded_bytes(PyObject *raw, const unsigned char *bytes, Py_ssize_t size, const UsbcastPlain *plain, PyTypeObject *batch,
                        PyTypeObject *arrivals)
{
    PyObject *whole = PyMemoryView_FromObject(raw);
    PyObject *payload = whole ? PySequence_GetSlice(whole, plain->payload, size) : NULL;
    Py_XDECREF(whole);
    return decoded(raw, bytes, bytes, plain, payload, batch, arrivals);
}

const char decode_doc[] =
"decode(raw, major, EncodedBatch, Arrivals)\n"
"-> EncodedBatch, or None where the bytes are not packets of one size with their arrivals and nothing else";

PyObject *decode(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    if (given != 4 || !PyBytes_Check(args[0]) || !PyType_Check(args[2]) || !PyType_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "decode takes bytes, a number and two types");
        return NULL;
    }
    uint32_t major = (uint32_t)PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    const unsigned char *raw = (const unsigned char *)PyBytes_AsString(args[0]);
    Py_ssize_t size = PyBytes_Size(args[0]);
    UsbcastPlain plain = usbcast_plain_layout(raw, raw, size, major);
    if (plain.arrivals == 0)
        Py_RETURN_NONE;
    return decoded_bytes(args[0], raw, size, &plain, (PyTypeObject *)args[2], (PyTypeObject *)args[3]);
}

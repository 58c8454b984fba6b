/* A batch: its bytes, and the objects made of them. */
#include "core.h"

/* The tags of its fields, and the size of what one arrival takes. */
enum { T_CONTRACT = 0x0D, T_COUNT = 0x15, T_EPOCH = 0x19, T_NUMBER = 0x21, T_FIRST = 0x29, T_SIZE = 0x35 };
enum { T_COUNTS = 0x42, T_REALTIMES = 0x4A, T_MONOTONICS = 0x52, T_PAYLOAD = 0x7A };
enum { ONE_ARRIVAL_BYTES = 26 };
enum { MAX_PACKETS = 65536 }; /* of a batch, as in usbcast_schemas/batch.py */

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

/* ---- Into bytes ---- */

static unsigned char *put8(unsigned char *at, uint8_t value) { *at = value; return at + 1; }
static unsigned char *put32(unsigned char *at, uint32_t value) { memcpy(at, &value, 4); return at + 4; }
static unsigned char *put64(unsigned char *at, uint64_t value) { memcpy(at, &value, 8); return at + 8; }

static unsigned char *put_varint(unsigned char *at, uint64_t value)
{
    for (; value > 0x7F; value >>= 7)
        at = put8(at, (uint8_t)(value | 0x80));
    return put8(at, (uint8_t)value);
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

/* All of a transfer: 1; 0 if it is no whole packets in bytes; -1 with an exception. */
int take_piece(Piece *piece, PyObject *transfer, uint32_t packet_size)
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

static unsigned char *put_column32(unsigned char *at, uint8_t tag, const Piece *pieces, Py_ssize_t count, uint32_t packet_size)
{
    at = put_varint(put8(at, tag), (uint64_t)count * 4);
    for (Py_ssize_t i = 0; i < count; i++)
        at = put32(at, (uint32_t)(pieces[i].size / packet_size));
    return at;
}

static unsigned char *put_column64(unsigned char *at, uint8_t tag, const Piece *pieces, Py_ssize_t count, int monotonic)
{
    at = put_varint(put8(at, tag), (uint64_t)count * 8);
    for (Py_ssize_t i = 0; i < count; i++)
        at = put64(at, (uint64_t)(monotonic ? pieces[i].monotonic_ns : pieces[i].realtime_ns));
    return at;
}

static Py_ssize_t varint_size(uint64_t value)
{
    Py_ssize_t size = 1;
    for (; value > 0x7F; value >>= 7)
        size++;
    return size;
}

uint64_t head_size(Py_ssize_t count, uint64_t payload_bytes)
{
    return (uint64_t)(HEAD_BYTES + 4 + varint_size((uint64_t)count * 4) + 2 * varint_size((uint64_t)count * 8) + count * 20 +
                      varint_size(payload_bytes));
}

/* All that stands before the payload. One arrival is one column of each kind, of one entry. */
unsigned char *put_head(unsigned char *at, const Piece *pieces, Py_ssize_t count, uint64_t payload_bytes, const Run *run)
{
    at = put32(put8(at, T_CONTRACT), run->contract);
    at = put32(put8(at, T_COUNT), (uint32_t)(payload_bytes / run->packet_size));
    at = put64(put8(at, T_EPOCH), run->epoch);
    at = put64(put8(at, T_NUMBER), run->number);
    at = put64(put8(at, T_FIRST), run->first);
    at = put32(put8(at, T_SIZE), run->packet_size);
    at = put_column32(at, T_COUNTS, pieces, count, run->packet_size);
    at = put_column64(at, T_REALTIMES, pieces, count, 0);
    at = put_column64(at, T_MONOTONICS, pieces, count, 1);
    return put_varint(put8(at, T_PAYLOAD), payload_bytes);
}

/* ---- Out of bytes ---- */

/* Where the entries of a column begin, if `at` begins one of `tag` with so many bytes, all of it before `size`; else 0. */
static Py_ssize_t column_at(const unsigned char *raw, Py_ssize_t size, Py_ssize_t at, uint8_t tag, uint64_t bytes)
{
    unsigned char expected[1 + MAX_VARINT];
    Py_ssize_t length = put_varint(put8(expected, tag), bytes) - expected;
    if (at <= 0 || at > size - length || bytes > (uint64_t)(size - length - at) || memcmp(raw + at, expected, (size_t)length))
        return 0;
    return at + length;
}

/* `head` are the first bytes of `raw`, which is of `size` bytes, and may be another's who is just writing: it is not led astray. */
Plain plain_layout(const unsigned char *head, const unsigned char *raw, Py_ssize_t size, uint32_t major)
{
    Plain found = {0, 0, 0, 0, 0}, none = found;
    if (size < HEAD_BYTES + ONE_ARRIVAL_BYTES + 2)
        return none;
    if (head[0] != T_CONTRACT || head[5] != T_COUNT || head[10] != T_EPOCH || head[19] != T_NUMBER || head[28] != T_FIRST ||
        head[37] != T_SIZE || get32(head + 1) >> 16 != major || head[HEAD_BYTES] != T_COUNTS)
        return none;
    uint64_t packets = get32(head + 6), packet_size = get32(head + 38), bytes = 0, summed = 0;
    if (packets > MAX_PACKETS || get64(head + 29) > UINT64_MAX - packets || get64(head + 20) == UINT64_MAX)
        return none; /* what comes next must have a sequence and a number of 64 bits */
    for (int i = 0; i < 4; i++) { /* no more than 2^28 bytes of counts */
        uint64_t digit = head[HEAD_BYTES + 1 + i];
        bytes |= (digit & 0x7F) << 7 * i;
        if (digit < 0x80)
            break;
    }
    uint64_t count = bytes / 4;
    if (packet_size == 0 || count == 0 || count > packets)
        return none;
    found.counts = column_at(raw, size, HEAD_BYTES, T_COUNTS, count * 4);
    found.realtimes = column_at(raw, size, found.counts ? found.counts + (Py_ssize_t)count * 4 : 0, T_REALTIMES, count * 8);
    found.monotonics = column_at(raw, size, found.realtimes ? found.realtimes + (Py_ssize_t)count * 8 : 0, T_MONOTONICS, count * 8);
    found.payload = column_at(raw, size, found.monotonics ? found.monotonics + (Py_ssize_t)count * 8 : 0, T_PAYLOAD, packets * packet_size);
    if (found.payload == 0 || packets * packet_size != (uint64_t)(size - found.payload))
        return none;
    for (uint64_t i = 0; i < count; i++)
        summed += get32(raw + found.counts + 4 * i);
    found.arrivals = summed == packets ? (Py_ssize_t)count : 0;
    return found;
}

/* As `plain_layout`, of which there is to be one. */
Taken taken_of(const unsigned char *head, const unsigned char *raw, const Plain *plain)
{
    Py_ssize_t last = 8 * (plain->arrivals - 1);
    return (Taken){get32(head + 6), (int64_t)get64(raw + plain->realtimes + last), (int64_t)get64(raw + plain->monotonics + last)};
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
        PyObject *value = is_times ? PyLong_FromLongLong((int64_t)get64(at + 8 * i)) : PyLong_FromUnsignedLong(get32(at + 4 * i));
        if (value == NULL)
            Py_CLEAR(made);
        else
            PyTuple_SetItem(made, i, value);
    }
    return made;
}

/* An Arrivals, which is a named tuple. */
static PyObject *all_arrivals(PyTypeObject *arrivals, const unsigned char *raw, const Plain *plain)
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

int is_next(const unsigned char *head, const Next *next)
{
    return get64(head + 11) == next->epoch && get64(head + 20) == next->number && get64(head + 29) == next->first && get32(head + 6);
}

/* `head` are the first bytes of `raw`, from a place where nobody writes; all of it is at `bytes`. */
PyObject *decoded(
    PyObject *raw, const unsigned char *head, const unsigned char *bytes, const Plain *plain, PyObject *payload,
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
    failed |= set(made, F_EPOCH, PyLong_FromUnsignedLongLong(get64(head + 11)));
    failed |= set(made, F_NUMBER, PyLong_FromUnsignedLongLong(get64(head + 20)));
    failed |= set(made, F_FIRST, PyLong_FromUnsignedLongLong(get64(head + 29)));
    failed |= set(made, F_COUNT, PyLong_FromUnsignedLong(get32(head + 6)));
    failed |= set(made, F_SIZE, PyLong_FromUnsignedLong(get32(head + 38)));
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
PyObject *decoded_bytes(PyObject *raw, const unsigned char *bytes, Py_ssize_t size, const Plain *plain, PyTypeObject *batch,
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
    Plain plain = plain_layout(raw, raw, size, major);
    if (plain.arrivals == 0)
        Py_RETURN_NONE;
    return decoded_bytes(args[0], raw, size, &plain, (PyTypeObject *)args[2], (PyTypeObject *)args[3]);
}

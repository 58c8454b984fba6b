/* The hot path of a batch, in C: the same bytes and the same order of stores as usbcast_schemas/batch.py and ring.py, which
 * say what they mean and do the work where this is not built. Layouts: docs/wire.md. Everything is called with the GIL held:
 * a copy takes microseconds, and to get the GIL back from a busy thread may take milliseconds.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire is little-endian: on this machine the work is done in Python"
#endif

/* Of the ring: words of its header and of a slot. */
enum { HEADER_BYTES = 4096, SLOT_WORDS = 6, FIRST_SLOT = HEADER_BYTES / 8 };
enum { HEAD = 16, TAIL = 17, WAITING = 24 };
enum { NUMBER_PLUS_ONE, BATCH_NUMBER, FIRST_SEQUENCE, COUNT_AND_LENGTH, POSITION, CHECKSUM };

/* Of a batch: the tags of its fields, and the sizes of what stands before the payload. */
enum { T_CONTRACT = 0x0D, T_COUNT = 0x15, T_EPOCH = 0x19, T_NUMBER = 0x21, T_FIRST = 0x29, T_SIZE = 0x35 };
enum { T_COUNTS = 0x42, T_REALTIMES = 0x4A, T_MONOTONICS = 0x52, T_PAYLOAD = 0x7A };
enum { HEAD_BYTES = 42, ONE_ARRIVAL_BYTES = 26, MAX_VARINT = 10 };

/* From so many bytes on a batch is written past the caches. */
enum { PAST_CACHES_BYTES = 32 * 1024 };

#define LOAD(word) __atomic_load_n((word), __ATOMIC_SEQ_CST)
#define STORE(word, value) __atomic_store_n((word), (value), __ATOMIC_SEQ_CST)

static PyObject *s_data, *s_realtime_ns, *s_monotonic_ns;
static PyObject *s_batch[13]; /* the attributes of an EncodedBatch, in the order of its fields */
static const char *const BATCH_FIELDS[13] = {
    "raw", "epoch", "number", "first_sequence", "packet_count", "packet_size", "packet_ends",
    "arrivals", "losses", "events", "end", "payload", "holes"};
enum { F_RAW, F_EPOCH, F_NUMBER, F_FIRST, F_COUNT, F_SIZE, F_ENDS, F_ARRIVALS, F_LOSSES, F_EVENTS, F_END, F_PAYLOAD, F_HOLES };

/* ---- Bytes of a batch ---- */

static unsigned char *put8(unsigned char *at, uint8_t value) { *at = value; return at + 1; }
static unsigned char *put32(unsigned char *at, uint32_t value) { memcpy(at, &value, 4); return at + 4; }
static unsigned char *put64(unsigned char *at, uint64_t value) { memcpy(at, &value, 8); return at + 8; }
static uint32_t get32(const unsigned char *at) { uint32_t value; memcpy(&value, at, 4); return value; }
static uint64_t get64(const unsigned char *at) { uint64_t value; memcpy(&value, at, 8); return value; }

static unsigned char *put_varint(unsigned char *at, uint64_t value)
{
    for (; value > 0x7F; value >>= 7)
        at = put8(at, (uint8_t)(value | 0x80));
    return put8(at, (uint8_t)value);
}

/* One transfer of the run. */
typedef struct {
    PyObject *data; /* owned */
    char *bytes;
    Py_ssize_t size;
    int64_t realtime_ns, monotonic_ns;
} Piece;

static int64_t int_attribute(PyObject *of, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(of, name);
    if (value == NULL)
        return -1;
    int64_t result = PyLong_AsLongLong(value);
    Py_DECREF(value);
    return result;
}

static int take_piece(Piece *piece, PyObject *transfer)
{
    piece->data = PyObject_GetAttr(transfer, s_data);
    if (piece->data == NULL)
        return -1;
    if (PyBytes_AsStringAndSize(piece->data, &piece->bytes, &piece->size) == 0) {
        piece->realtime_ns = int_attribute(transfer, s_realtime_ns);
        piece->monotonic_ns = int_attribute(transfer, s_monotonic_ns);
        if (!PyErr_Occurred())
            return 0;
    }
    Py_CLEAR(piece->data);
    return -1;
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

/* All that stands before the payload. One arrival is one column of each kind, of one entry. */
static unsigned char *put_head(
    unsigned char *at, const Piece *pieces, Py_ssize_t count, uint64_t payload_bytes,
    uint32_t contract, uint32_t packets, uint64_t epoch, uint64_t number, uint64_t first, uint32_t packet_size)
{
    at = put32(put8(at, T_CONTRACT), contract);
    at = put32(put8(at, T_COUNT), packets);
    at = put64(put8(at, T_EPOCH), epoch);
    at = put64(put8(at, T_NUMBER), number);
    at = put64(put8(at, T_FIRST), first);
    at = put32(put8(at, T_SIZE), packet_size);
    at = put_column32(at, T_COUNTS, pieces, count, packet_size);
    at = put_column64(at, T_REALTIMES, pieces, count, 0);
    at = put_column64(at, T_MONOTONICS, pieces, count, 1);
    return put_varint(put8(at, T_PAYLOAD), payload_bytes);
}

static PyObject *encoded_parts(
    const Piece *pieces, Py_ssize_t count, uint64_t payload_bytes, int joined,
    uint32_t contract, uint64_t epoch, uint64_t number, uint64_t first, uint32_t packet_size)
{
    Py_ssize_t most = HEAD_BYTES + 3 * (1 + MAX_VARINT) + count * 20 + 1 + MAX_VARINT;
    unsigned char small[512], *head = small;
    if (most > (Py_ssize_t)sizeof small && (head = PyMem_Malloc((size_t)most)) == NULL)
        return PyErr_NoMemory();
    uint32_t packets = (uint32_t)(payload_bytes / packet_size);
    Py_ssize_t size =
        put_head(head, pieces, count, payload_bytes, contract, packets, epoch, number, first, packet_size) - head;
    PyObject *parts = PyTuple_New(joined ? 1 : 1 + count);
    PyObject *front = parts ? PyBytes_FromStringAndSize(NULL, joined ? size + (Py_ssize_t)payload_bytes : size) : NULL;
    if (front == NULL) {
        Py_CLEAR(parts);
    } else {
        char *at = PyBytes_AsString(front);
        memcpy(at, head, (size_t)size);
        at += size;
        PyTuple_SetItem(parts, 0, front);
        for (Py_ssize_t i = 0; i < count; i++) {
            if (joined) {
                memcpy(at, pieces[i].bytes, (size_t)pieces[i].size);
                at += pieces[i].size;
            } else {
                Py_INCREF(pieces[i].data);
                PyTuple_SetItem(parts, 1 + i, pieces[i].data);
            }
        }
    }
    if (head != small)
        PyMem_Free(head);
    return parts;
}

PyDoc_STRVAR(encode_run_doc,
"encode_run(transfers, begin, most_bytes, joined_bytes, contract, epoch, number, first_sequence, packet_size)\n"
"-> (parts, until, size_bytes)\n\n"
"The next batch: of transfers[begin:until], as many whole ones as make no more than most_bytes of payload, but at least one.\n"
"In one part if they are smaller than joined_bytes on average, else the head and each transfer's bytes.");

static PyObject *encode_run(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *transfers;
    Py_ssize_t begin, most_bytes, joined_bytes;
    unsigned int contract, packet_size;
    unsigned long long epoch, number, first;
    if (!PyArg_ParseTuple(args, "OnnnIKKKI", &transfers, &begin, &most_bytes, &joined_bytes, &contract, &epoch, &number,
                          &first, &packet_size))
        return NULL;
    Py_ssize_t length = PyList_Size(transfers), count = 0, room = 16;
    if (length < 0)
        return NULL;
    if (packet_size == 0 || begin < 0 || begin >= length) {
        PyErr_SetString(PyExc_ValueError, "there is nothing to encode");
        return NULL;
    }
    Piece few[16], *pieces = few;
    PyObject *result = NULL;
    uint64_t payload_bytes = 0;
    for (Py_ssize_t at = begin; at < length; at++) {
        if (count == room) {
            Piece *more = PyMem_Malloc((size_t)(4 * room) * sizeof(Piece));
            if (more == NULL) {
                PyErr_NoMemory();
                goto done;
            }
            memcpy(more, pieces, (size_t)count * sizeof(Piece));
            if (pieces != few)
                PyMem_Free(pieces);
            pieces = more;
            room *= 4;
        }
        PyObject *transfer = PyList_GetItem(transfers, at);
        if (transfer == NULL || take_piece(&pieces[count], transfer) < 0)
            goto done;
        if (count && payload_bytes + (uint64_t)pieces[count].size > (uint64_t)most_bytes) {
            Py_CLEAR(pieces[count].data);
            break;
        }
        payload_bytes += (uint64_t)pieces[count++].size;
    }
    int joined = payload_bytes < (uint64_t)joined_bytes * (uint64_t)count;
    PyObject *parts = encoded_parts(pieces, count, payload_bytes, joined, contract, epoch, number, first, packet_size);
    if (parts != NULL)
        result = Py_BuildValue("NnK", parts, begin + count, (unsigned long long)payload_bytes);
done:
    for (Py_ssize_t i = 0; i < count; i++)
        Py_DECREF(pieces[i].data);
    if (pieces != few)
        PyMem_Free(pieces);
    return result;
}

/* ---- The ring ---- */

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    uint64_t *words;
    unsigned char *data;
    uint64_t slots, data_bytes;
    uint64_t head, tail, position; /* the writer's own: others can write to what is shared */
    int open;
} Ring;

static void ring_let_go(Ring *self)
{
    if (self->open) {
        self->open = 0;
        PyBuffer_Release(&self->view);
    }
}

static int ring_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Ring *self = (Ring *)object;
    PyObject *memory;
    unsigned long long slots, data_bytes;
    if (!PyArg_ParseTuple(args, "OKK", &memory, &slots, &data_bytes))
        return -1;
    ring_let_go(self);
    if (PyObject_GetBuffer(memory, &self->view, PyBUF_WRITABLE) < 0)
        return -1;
    self->open = 1;
    uint64_t data_at = HEADER_BYTES + slots * SLOT_WORDS * 8;
    if ((uint64_t)self->view.len != data_at + data_bytes || slots == 0 || data_bytes == 0) {
        ring_let_go(self);
        PyErr_SetString(PyExc_ValueError, "the memory is not as large as such a ring");
        return -1;
    }
    self->words = self->view.buf;
    self->data = (unsigned char *)self->view.buf + data_at;
    self->slots = slots;
    self->data_bytes = data_bytes;
    self->head = self->tail = self->position = 0;
    return 0;
}

static void ring_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    ring_let_go((Ring *)object);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *ring_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    ring_let_go((Ring *)object);
    Py_RETURN_NONE;
}

static int ring_is_open(Ring *self)
{
    if (!self->open)
        PyErr_SetString(PyExc_ValueError, "the ring is closed");
    return self->open;
}

static uint64_t *slot_words(Ring *self, uint64_t slot)
{
    return self->words + FIRST_SLOT + slot % self->slots * SLOT_WORDS;
}

/* -1 with an exception if one of them has no length. */
static int64_t parts_size(PyObject *parts, Py_ssize_t count)
{
    int64_t size = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t length = PyObject_Size(PyTuple_GetItem(parts, i));
        if (length < 0)
            return -1;
        size += length;
    }
    return size;
}

/* A ring is larger than the caches, and whoever reads it has another one: an ordinary store fetches each line from memory only to
 * overwrite it. Past the caches a batch of 448 kB was written in two thirds of the time. */
static void copy(unsigned char *to, const unsigned char *from, size_t size, int past_caches)
{
#if defined(__SSE2__)
    if (past_caches) {
        size_t ragged = (size_t)(-(uintptr_t)to & 15);
        if (ragged > size)
            ragged = size;
        memcpy(to, from, ragged);
        for (to += ragged, from += ragged, size -= ragged; size >= 64; to += 64, from += 64, size -= 64)
            for (int at = 0; at < 64; at += 16)
                _mm_stream_si128((__m128i *)(to + at), _mm_loadu_si128((const __m128i *)(from + at)));
        _mm_sfence(); /* before the head is moved */
    }
#else
    (void)past_caches;
#endif
    memcpy(to, from, size);
}

static int copy_part(unsigned char *to, PyObject *part, int64_t left, int past_caches)
{
    Py_buffer view;
    if (PyObject_GetBuffer(part, &view, PyBUF_SIMPLE) < 0)
        return -1;
    int fits = view.len <= left;
    if (fits)
        copy(to, view.buf, (size_t)view.len, past_caches);
    else
        PyErr_SetString(PyExc_ValueError, "a part has more bytes than items");
    PyBuffer_Release(&view);
    return fits ? 0 : -1;
}

PyDoc_STRVAR(ring_write_doc,
"write(parts, number, first_sequence, packet_count) -> whether a reader sleeps and is to be woken\n\n"
"Store one batch. Raises BufferError if it is larger than the ring.");

static PyObject *ring_write(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (!ring_is_open(self))
        return NULL;
    if (given != 4 || !PyTuple_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "write takes a tuple of parts and three numbers");
        return NULL;
    }
    PyObject *parts = args[0];
    uint64_t number = PyLong_AsUnsignedLongLong(args[1]);
    uint64_t first = PyLong_AsUnsignedLongLong(args[2]);
    uint64_t packets = PyLong_AsUnsignedLongLong(args[3]);
    Py_ssize_t count = PyTuple_Size(parts);
    int64_t length = PyErr_Occurred() ? -1 : parts_size(parts, count);
    if (length < 0)
        return NULL;
    uint64_t size = self->data_bytes, position = self->position;
    if ((uint64_t)length > size || packets > 0xFFFFFFFF) {
        PyErr_SetString(PyExc_BufferError, "the batch is larger than the ring");
        return NULL;
    }
    if (position % size + (uint64_t)length > size)
        position += size - position % size;
    uint64_t end = position + (uint64_t)length;
    uint64_t head = self->head, tail = self->tail;
    while (tail < head && (head - tail >= self->slots || slot_words(self, tail)[POSITION] + size < end))
        tail++;
    if (tail != self->tail) {
        self->tail = tail;
        STORE(&self->words[TAIL], tail); /* before the first byte is overwritten */
    }
    unsigned char *to = self->data + position % size;
    int64_t left = length;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *part = PyTuple_GetItem(parts, i);
        Py_ssize_t part_size = PyObject_Size(part);
        if (copy_part(to, part, left, length >= PAST_CACHES_BYTES) < 0)
            return NULL;
        to += part_size;
        left -= part_size;
    }
    uint64_t *slot = slot_words(self, head);
    slot[NUMBER_PLUS_ONE] = head + 1;
    slot[BATCH_NUMBER] = number;
    slot[FIRST_SEQUENCE] = first;
    slot[COUNT_AND_LENGTH] = packets << 32 | (uint64_t)length;
    slot[POSITION] = position;
    slot[CHECKSUM] = 0;
    self->position = (end + 7) & ~(uint64_t)7;
    self->head = head + 1;
    STORE(&self->words[HEAD], head + 1);
    if (!LOAD(&self->words[WAITING]))
        Py_RETURN_FALSE;
    STORE(&self->words[WAITING], 0); /* before the wake-up is sent, never after */
    Py_RETURN_TRUE;
}

/* What stands between head and payload, if it is one arrival of all packets and nothing else; 0 if it is anything else. */
static Py_ssize_t simple_payload(const unsigned char *raw, Py_ssize_t size, uint32_t major)
{
    if (size < HEAD_BYTES + ONE_ARRIVAL_BYTES + 2)
        return 0;
    if (raw[0] != T_CONTRACT || raw[5] != T_COUNT || raw[10] != T_EPOCH || raw[19] != T_NUMBER || raw[28] != T_FIRST ||
        raw[37] != T_SIZE || get32(raw + 1) >> 16 != major)
        return 0;
    const unsigned char *at = raw + HEAD_BYTES;
    if (at[0] != T_COUNTS || at[1] != 4 || at[6] != T_REALTIMES || at[7] != 8 || at[16] != T_MONOTONICS || at[17] != 8)
        return 0;
    uint32_t packets = get32(raw + 6), packet_size = get32(raw + 38);
    if (packet_size == 0 || get32(at + 2) != packets)
        return 0;
    uint64_t payload = (uint64_t)packets * packet_size;
    unsigned char expected[1 + MAX_VARINT];
    Py_ssize_t tag = put_varint(put8(expected, T_PAYLOAD), payload) - expected;
    Py_ssize_t begin = HEAD_BYTES + ONE_ARRIVAL_BYTES + tag;
    if (begin > size || memcmp(at + ONE_ARRIVAL_BYTES, expected, (size_t)tag) || payload != (uint64_t)(size - begin))
        return 0;
    return begin;
}

static int set(PyObject *of, int field, PyObject *value)
{
    if (value == NULL)
        return -1;
    int failed = PyObject_SetAttr(of, s_batch[field], value);
    Py_DECREF(value);
    return failed;
}

static PyObject *one(PyObject *value) { return value ? Py_BuildValue("(N)", value) : NULL; }

/* An Arrivals, which is a named tuple, of one entry. */
static PyObject *one_arrival(PyTypeObject *arrivals, const unsigned char *at)
{
    PyObject *columns = Py_BuildValue("((NNN))", one(PyLong_FromUnsignedLong(get32(at + 2))),
                                      one(PyLong_FromLongLong((int64_t)get64(at + 8))),
                                      one(PyLong_FromLongLong((int64_t)get64(at + 18))));
    if (columns == NULL)
        return NULL;
    PyObject *made = ((newfunc)PyType_GetSlot(&PyTuple_Type, Py_tp_new))(arrivals, columns, NULL);
    Py_DECREF(columns);
    return made;
}

static PyObject *payload_view(PyObject *raw, Py_ssize_t begin, Py_ssize_t size)
{
    PyObject *whole = PyMemoryView_FromObject(raw);
    PyObject *view = whole ? PySequence_GetSlice(whole, begin, size) : NULL;
    Py_XDECREF(whole);
    return view;
}

static PyObject *decoded(PyObject *raw, Py_ssize_t begin, PyTypeObject *batch, PyTypeObject *arrivals)
{
    const unsigned char *at = (const unsigned char *)PyBytes_AsString(raw);
    PyObject *nothing = PyTuple_New(0);
    PyObject *made = nothing ? ((newfunc)PyType_GetSlot(batch, Py_tp_new))(batch, nothing, NULL) : NULL;
    if (made == NULL) {
        Py_XDECREF(nothing);
        return NULL;
    }
    Py_INCREF(raw);
    Py_INCREF(Py_None);
    int failed = set(made, F_RAW, raw);
    failed |= set(made, F_END, Py_None);
    failed |= set(made, F_EPOCH, PyLong_FromUnsignedLongLong(get64(at + 11)));
    failed |= set(made, F_NUMBER, PyLong_FromUnsignedLongLong(get64(at + 20)));
    failed |= set(made, F_FIRST, PyLong_FromUnsignedLongLong(get64(at + 29)));
    failed |= set(made, F_COUNT, PyLong_FromUnsignedLong(get32(at + 6)));
    failed |= set(made, F_SIZE, PyLong_FromUnsignedLong(get32(at + 38)));
    failed |= set(made, F_ARRIVALS, one_arrival(arrivals, at + HEAD_BYTES));
    failed |= set(made, F_PAYLOAD, payload_view(raw, begin, PyBytes_Size(raw)));
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

PyDoc_STRVAR(ring_take_doc,
"take(slot, most_bytes, major, EncodedBatch, Arrivals)\n"
"-> EncodedBatch, or its bytes where it has another layout than that of a batch of one transfer and nothing else;\n"
"None if the slot is not held, was overwritten meanwhile, or has more than most_bytes");

static PyObject *ring_take(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (!ring_is_open(self))
        return NULL;
    if (given != 5 || !PyType_Check(args[3]) || !PyType_Check(args[4])) {
        PyErr_SetString(PyExc_TypeError, "take takes three numbers and two types");
        return NULL;
    }
    uint64_t at = PyLong_AsUnsignedLongLong(args[0]);
    uint64_t most_bytes = PyLong_AsUnsignedLongLong(args[1]);
    uint32_t major = (uint32_t)PyLong_AsUnsignedLong(args[2]);
    if (PyErr_Occurred())
        return NULL;
    uint64_t *words = self->words;
    if (LOAD(&words[TAIL]) > at || LOAD(&words[HEAD]) <= at)
        Py_RETURN_NONE;
    uint64_t *slot = slot_words(self, at);
    uint64_t named = LOAD(&slot[NUMBER_PLUS_ONE]), position = LOAD(&slot[POSITION]);
    uint64_t length = LOAD(&slot[COUNT_AND_LENGTH]) & 0xFFFFFFFF;
    /* Figures that were torn apart lead nowhere: they are looked at again below, and must not lead out of the memory. */
    if (named != at + 1 || length >= most_bytes || length > self->data_bytes ||
        position % self->data_bytes > self->data_bytes - length)
        Py_RETURN_NONE;
    PyObject *raw = PyBytes_FromStringAndSize((char *)self->data + position % self->data_bytes, (Py_ssize_t)length);
    if (raw == NULL)
        return NULL;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (LOAD(&words[TAIL]) > at || LOAD(&slot[NUMBER_PLUS_ONE]) != at + 1) {
        Py_DECREF(raw);
        Py_RETURN_NONE;
    }
    Py_ssize_t begin = simple_payload((unsigned char *)PyBytes_AsString(raw), (Py_ssize_t)length, major);
    if (begin == 0)
        return raw;
    PyObject *batch = decoded(raw, begin, (PyTypeObject *)args[3], (PyTypeObject *)args[4]);
    Py_DECREF(raw);
    return batch;
}

static PyMethodDef ring_methods[] = {
    {"write", (PyCFunction)(void (*)(void))ring_write, METH_FASTCALL, ring_write_doc},
    {"take", (PyCFunction)(void (*)(void))ring_take, METH_FASTCALL, ring_take_doc},
    {"close", ring_close, METH_NOARGS, "Let go of the memory; idempotent."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_doc, "Ring(memory, slots, data_bytes): the writer's or a reader's hold on the memory of a ring."},
    {Py_tp_init, ring_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, ring_methods},
    {0, NULL},
};

static PyType_Spec ring_spec = {"usbcast_schemas._native.Ring", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT, ring_slots};

/* ---- The module ---- */

static PyMethodDef functions[] = {
    {"encode_run", encode_run, METH_VARARGS, encode_run_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The hot path of a batch, in C; see usbcast_schemas.native.", -1, functions,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    s_data = PyUnicode_InternFromString("data");
    s_realtime_ns = PyUnicode_InternFromString("realtime_ns");
    s_monotonic_ns = PyUnicode_InternFromString("monotonic_ns");
    for (int i = 0; i < 13; i++)
        s_batch[i] = PyUnicode_InternFromString(BATCH_FIELDS[i]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module ? PyType_FromSpec(&ring_spec) : NULL;
    if (type == NULL || PyModule_AddObjectRef(module, "Ring", type) < 0)
        Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}

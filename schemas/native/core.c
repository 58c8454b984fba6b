/* The hot path of a batch, in C: the same bytes and the same order of stores as usbcast_schemas/batch.py and ring.py, which
 * say what they mean and do the work where this is not built. Layouts: docs/wire.md. Everything is called with the GIL held:
 * a copy takes microseconds, and to get the GIL back from a busy thread may take milliseconds.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>
#include <time.h>
#include <unistd.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#if defined(__linux__)
#include <sys/epoll.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire is little-endian: on this machine the work is done in Python"
#endif

/* Of the ring: words of its header and of a slot. */
enum { HEADER_BYTES = 4096, SLOT_WORDS = 6, FIRST_SLOT = HEADER_BYTES / 8 };
enum { HEAD = 16, TAIL = 17, WAITING = 24, STATE = 33 };
enum { NUMBER_PLUS_ONE, BATCH_NUMBER, FIRST_SEQUENCE, COUNT_AND_LENGTH, POSITION, CHECKSUM };

/* Of a batch: the tags of its fields, and the sizes of what stands before the payload. */
enum { T_CONTRACT = 0x0D, T_COUNT = 0x15, T_EPOCH = 0x19, T_NUMBER = 0x21, T_FIRST = 0x29, T_SIZE = 0x35 };
enum { T_COUNTS = 0x42, T_REALTIMES = 0x4A, T_MONOTONICS = 0x52, T_PAYLOAD = 0x7A };
enum { HEAD_BYTES = 42, ONE_ARRIVAL_BYTES = 26, MAX_VARINT = 10 };

/* From so many bytes on a batch is written past the caches, and pieces shorter than that on average are joined before. */
enum { PAST_CACHES_BYTES = 32 * 1024, SHORT_BYTES = 4096 };

#if defined(__SSE2__)
#define PAUSE() _mm_pause()
#else
#define PAUSE() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#endif

#define LOAD(word) __atomic_load_n((word), __ATOMIC_SEQ_CST)
#define STORE(word, value) __atomic_store_n((word), (value), __ATOMIC_SEQ_CST)

static PyObject *s_data, *s_realtime_ns, *s_monotonic_ns, *s_ring, *s_slot, *s_encoded, *s_meaning, *s_skip, *s_gaps;
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

/* One transfer of a run; its bytes are held by the list that it is in. */
typedef struct {
    const unsigned char *bytes;
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

/* -1 with an exception, 0 if it is no whole packets in bytes that are to stay together. */
static int take_piece(Piece *piece, PyObject *transfer, uint32_t packet_size, Py_ssize_t most_bytes)
{
    PyObject *data = PyObject_GetAttr(transfer, s_data);
    if (data == NULL)
        return -1;
    int whole = PyBytes_Check(data);
    if (whole) {
        piece->bytes = (const unsigned char *)PyBytes_AsString(data);
        piece->size = PyBytes_Size(data);
        whole = piece->size > 0 && piece->size <= most_bytes && piece->size % packet_size == 0;
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

static uint64_t head_size(Py_ssize_t count, uint64_t payload_bytes)
{
    return (uint64_t)(HEAD_BYTES + 4 + varint_size((uint64_t)count * 4) + 2 * varint_size((uint64_t)count * 8) + count * 20 +
                      varint_size(payload_bytes));
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

/* ---- The ring ---- */

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    PyObject *whole; /* all of it, to be looked at only */
    uint64_t *words;
    unsigned char *data;
    uint64_t slots, data_bytes;
    uint64_t head, tail, position; /* the writer's own: others can write to what is shared */
    unsigned long long next_number, next_sequence; /* of what is written next, if it follows */
    int wake_fd;                   /* of the writer */
    int open;
    Piece *pieces; /* room for a run */
    Py_ssize_t most_pieces;
    unsigned char *joined; /* and for a batch of many small ones */
    uint64_t joined_bytes;
    int sleeps, seldom; /* of a reader: how often it sleeps at once before it lingers again, and how often the last time */
} Ring;

static void ring_let_go(Ring *self)
{
    if (self->open) {
        self->open = 0;
        Py_CLEAR(self->whole);
        PyBuffer_Release(&self->view);
    }
}

static int ring_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Ring *self = (Ring *)object;
    PyObject *memory;
    unsigned long long slots, data_bytes;
    int wake_fd = -1;
    if (!PyArg_ParseTuple(args, "OKK|i", &memory, &slots, &data_bytes, &wake_fd))
        return -1;
    ring_let_go(self);
    if (PyObject_GetBuffer(memory, &self->view, PyBUF_WRITABLE) < 0)
        return -1;
    self->open = 1;
    PyObject *whole = PyMemoryView_FromObject(memory);
    self->whole = whole ? PyObject_CallMethod(whole, "toreadonly", NULL) : NULL;
    Py_XDECREF(whole);
    if (self->whole == NULL) {
        ring_let_go(self);
        return -1;
    }
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
    self->wake_fd = wake_fd;
    return 0;
}

static void ring_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    ring_let_go((Ring *)object);
    PyMem_Free(((Ring *)object)->pieces);
    PyMem_Free(((Ring *)object)->joined);
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

/* So many bytes of the ring itself, to be looked at only. They keep the memory, whoever closes the ring. */
static PyObject *in_place(Ring *self, const unsigned char *begin, Py_ssize_t size)
{
    Py_ssize_t at = begin - (const unsigned char *)self->view.buf;
    return PySequence_GetSlice(self->whole, at, at + size);
}

/* Make room for the next batch, of so many bytes, which is no more than the ring holds; return where it begins. */
static unsigned char *make_room(Ring *self, uint64_t length, uint64_t *begins)
{
    uint64_t size = self->data_bytes, position = self->position, head = self->head, tail = self->tail;
    if (position % size + length > size)
        position += size - position % size;
    uint64_t end = position + length;
    while (tail < head && (head - tail >= self->slots || slot_words(self, tail)[POSITION] + size < end))
        tail++;
    if (tail != self->tail) {
        self->tail = tail;
        STORE(&self->words[TAIL], tail); /* before the first byte is overwritten */
    }
    *begins = position;
    return self->data + position % size;
}

/* A byte into the fifo is a new edge for every reader's epoll. Nobody reads the fifo, so it is emptied when it is full. */
static int wake(int fd)
{
    char emptied[4096];
    while (write(fd, "", 1) < 0) {
        if (errno == EAGAIN) {
            while (read(fd, emptied, sizeof emptied) == (ssize_t)sizeof emptied) {
            }
        } else if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
    }
    return 0;
}

/* What was written at `position` is a batch from now on, and who sleeps is told. */
static int show(Ring *self, uint64_t position, uint64_t length, uint64_t number, uint64_t first, uint64_t packets)
{
    uint64_t head = self->head, *slot = slot_words(self, head);
    slot[NUMBER_PLUS_ONE] = head + 1;
    slot[BATCH_NUMBER] = number;
    slot[FIRST_SEQUENCE] = first;
    slot[COUNT_AND_LENGTH] = packets << 32 | length;
    slot[POSITION] = position;
    slot[CHECKSUM] = 0;
    self->position = (position + length + 7) & ~(uint64_t)7;
    self->head = head + 1;
    self->next_number = number + 1;
    self->next_sequence = first + packets;
    STORE(&self->words[HEAD], head + 1);
    if (!LOAD(&self->words[WAITING]))
        return 0;
    STORE(&self->words[WAITING], 0); /* before the wake-up is sent, never after */
    return wake(self->wake_fd);
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
"write(parts, number, first_sequence, packet_count)\n\n"
"Store one batch, and wake the readers that sleep. Raises BufferError if it is larger than the ring.");

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
    if ((uint64_t)length > self->data_bytes || packets > 0xFFFFFFFF) {
        PyErr_SetString(PyExc_BufferError, "the batch is larger than the ring");
        return NULL;
    }
    uint64_t position;
    unsigned char *to = make_room(self, (uint64_t)length, &position);
    int64_t left = length;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *part = PyTuple_GetItem(parts, i);
        Py_ssize_t part_size = PyObject_Size(part);
        if (copy_part(to, part, left, length >= PAST_CACHES_BYTES) < 0)
            return NULL;
        to += part_size;
        left -= part_size;
    }
    if (show(self, position, (uint64_t)length, number, first, packets) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* All of `items` as pieces: 1; 0 if one of them is anything but a transfer of whole packets; -1 with an exception. */
static int take_pieces(Ring *self, PyObject *items, Py_ssize_t count, PyTypeObject *transfer, uint32_t packet_size, Py_ssize_t most_bytes)
{
    if (count > self->most_pieces) {
        Piece *more = PyMem_Realloc(self->pieces, (size_t)count * sizeof(Piece));
        if (more == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->pieces = more;
        self->most_pieces = count;
    }
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *item = PyList_GetItem(items, at);
        if (Py_TYPE(item) != transfer)
            return 0;
        int taken = take_piece(&self->pieces[at], item, packet_size, most_bytes);
        if (taken <= 0)
            return taken;
    }
    return 1;
}

/* Up to which piece the batch that begins with piece `at` goes, and its bytes of payload: as many as have room, at least one. */
static Py_ssize_t batch_until(const Piece *pieces, Py_ssize_t at, Py_ssize_t count, Py_ssize_t most_bytes, uint64_t *payload_bytes)
{
    Py_ssize_t size = pieces[at].size;
    for (at++; at < count && size + pieces[at].size <= most_bytes; at++)
        size += pieces[at].size;
    *payload_bytes = (uint64_t)size;
    return at;
}

/* What is written past the caches is written in long pieces; short ones are put together before, in memory that is in a cache. */
static int is_joined(uint64_t length, uint64_t payload_bytes, Py_ssize_t count)
{
    return length >= PAST_CACHES_BYTES && payload_bytes < (uint64_t)count * SHORT_BYTES;
}

static unsigned char *room_to_join(Ring *self, uint64_t length)
{
    if (length > self->joined_bytes) {
        unsigned char *more = PyMem_Realloc(self->joined, (size_t)length);
        if (more == NULL)
            return (unsigned char *)PyErr_NoMemory();
        self->joined = more;
        self->joined_bytes = length;
    }
    return self->joined;
}

/* Batches that follow one another: what is the same for all, and what comes next. */
typedef struct {
    uint32_t contract, packet_size;
    Py_ssize_t most_bytes;
    uint64_t epoch, number, first, size_bytes;
} Run;

/* The first `count` pieces as batches in the ring: 1; 0, with nothing done, if they would take more than half of it; -1 with an exception. */
static int write_pieces(Ring *self, Py_ssize_t count, Run *run)
{
    const Piece *pieces = self->pieces;
    uint64_t payload_bytes = 0, batches = 0, needed = 0;
    for (Py_ssize_t at = 0, until; at < count; at = until, batches++) {
        until = batch_until(pieces, at, count, run->most_bytes, &payload_bytes);
        uint64_t length = head_size(until - at, payload_bytes) + payload_bytes;
        needed += length;
        if (needed > self->data_bytes / 2 || batches >= self->slots / 2)
            return 0;
        if (is_joined(length, payload_bytes, until - at) && room_to_join(self, length) == NULL)
            return -1;
    }
    for (Py_ssize_t at = 0, until; at < count; at = until) {
        until = batch_until(pieces, at, count, run->most_bytes, &payload_bytes);
        uint64_t length = head_size(until - at, payload_bytes) + payload_bytes, packets = payload_bytes / run->packet_size, position;
        int joined = is_joined(length, payload_bytes, until - at);
        int past_caches = !joined && length >= PAST_CACHES_BYTES;
        unsigned char *begin = make_room(self, length, &position), *to = joined ? self->joined : begin;
        to = put_head(to, pieces + at, until - at, payload_bytes, run->contract, (uint32_t)packets, run->epoch, run->number,
                      run->first, run->packet_size);
        for (Py_ssize_t piece = at; piece < until; piece++) {
            copy(to, pieces[piece].bytes, (size_t)pieces[piece].size, past_caches);
            to += pieces[piece].size;
        }
        if (joined)
            copy(begin, self->joined, (size_t)length, 1);
        if (show(self, position, length, run->number, run->first, packets) < 0)
            return -1;
        run->number++;
        run->first += packets;
        run->size_bytes += payload_bytes;
    }
    return 1;
}

PyDoc_STRVAR(ring_write_run_doc,
"write_run(items, Transfer, most_bytes, contract, epoch, number, first_sequence, packet_size)\n"
"-> (batches, packets, size_bytes), or None and nothing is done\n\n"
"Store the batches of a list of transfers, each of as many as make no more than most_bytes of payload, and wake the readers\n"
"that sleep. None if there is anything else in the list than transfers of whole packets, or one larger than a batch, or if\n"
"they would take more than half of the ring.");

static PyObject *ring_write_run(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (!ring_is_open(self))
        return NULL;
    if (given != 8 || !PyList_Check(args[0]) || !PyType_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "write_run takes a list, a type and six numbers");
        return NULL;
    }
    Py_ssize_t count = PyList_Size(args[0]), most_bytes = PyLong_AsSsize_t(args[2]);
    uint64_t contract = PyLong_AsUnsignedLongLong(args[3]), epoch = PyLong_AsUnsignedLongLong(args[4]);
    uint64_t number = PyLong_AsUnsignedLongLong(args[5]), first = PyLong_AsUnsignedLongLong(args[6]);
    uint64_t packet_size = PyLong_AsUnsignedLongLong(args[7]);
    if (PyErr_Occurred())
        return NULL;
    if (count == 0 || packet_size == 0 || packet_size > 0xFFFFFFFF || contract > 0xFFFFFFFF)
        Py_RETURN_NONE;
    int whole = take_pieces(self, args[0], count, (PyTypeObject *)args[1], (uint32_t)packet_size, most_bytes);
    Run run = {(uint32_t)contract, (uint32_t)packet_size, most_bytes, epoch, number, first, 0};
    if (whole > 0)
        whole = write_pieces(self, count, &run);
    if (whole < 0)
        return NULL;
    if (whole == 0)
        Py_RETURN_NONE;
    return Py_BuildValue("KKK", (unsigned long long)(run.number - number), (unsigned long long)(run.first - first),
                         (unsigned long long)run.size_bytes);
}

PyDoc_STRVAR(ring_written_doc,
"written(count) -> list of memoryview: the newest so many batches that are still held, in place, the oldest of them first");

static PyObject *ring_written(PyObject *object, PyObject *count)
{
    Ring *self = (Ring *)object;
    uint64_t most = PyLong_AsUnsignedLongLong(count);
    if (PyErr_Occurred() || !ring_is_open(self))
        return NULL;
    uint64_t at = self->head - self->tail > most ? self->head - most : self->tail;
    PyObject *found = PyList_New((Py_ssize_t)(self->head - at));
    for (Py_ssize_t i = 0; found && at < self->head; at++, i++) {
        const uint64_t *slot = slot_words(self, at);
        uint64_t length = slot[COUNT_AND_LENGTH] & 0xFFFFFFFF, offset = slot[POSITION] % self->data_bytes;
        if (length > self->data_bytes - offset) /* others can write to what is shared */
            length = 0;
        PyObject *raw = in_place(self, self->data + offset, (Py_ssize_t)length);
        if (raw == NULL)
            Py_CLEAR(found);
        else
            PyList_SetItem(found, i, raw);
    }
    return found;
}

/* A batch of whole packets of one size, with one column of arrivals of each kind and nothing else to say. */
typedef struct {
    Py_ssize_t arrivals;                        /* 0 if it is anything else */
    Py_ssize_t counts, realtimes, monotonics;   /* where the columns begin */
    Py_ssize_t payload;
} Plain;

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
static Plain plain_layout(const unsigned char *head, const unsigned char *raw, Py_ssize_t size, uint32_t major)
{
    Plain found = {0, 0, 0, 0, 0}, none = found;
    if (size < HEAD_BYTES + ONE_ARRIVAL_BYTES + 2)
        return none;
    if (head[0] != T_CONTRACT || head[5] != T_COUNT || head[10] != T_EPOCH || head[19] != T_NUMBER || head[28] != T_FIRST ||
        head[37] != T_SIZE || get32(head + 1) >> 16 != major || head[HEAD_BYTES] != T_COUNTS)
        return none;
    uint64_t packets = get32(head + 6), packet_size = get32(head + 38), bytes = 0, summed = 0;
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

/* Where the next batch of a run is expected to go on. */
typedef struct {
    uint64_t epoch, number, first;
} Next;

static int is_next(const unsigned char *head, const Next *next)
{
    return get64(head + 11) == next->epoch && get64(head + 20) == next->number && get64(head + 29) == next->first && get32(head + 6);
}

/* `head` are the first bytes of `raw`, from a place where nobody writes; all of it is at `bytes`. */
static PyObject *decoded(
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

static PyObject *decoded_bytes(PyObject *raw, const Plain *plain, PyTypeObject *batch, PyTypeObject *arrivals)
{
    const unsigned char *bytes = (const unsigned char *)PyBytes_AsString(raw);
    PyObject *whole = PyMemoryView_FromObject(raw);
    PyObject *payload = whole ? PySequence_GetSlice(whole, plain->payload, PyBytes_Size(raw)) : NULL;
    Py_XDECREF(whole);
    return decoded(raw, bytes, bytes, plain, payload, batch, arrivals);
}

PyDoc_STRVAR(decode_doc,
"decode(raw, major, EncodedBatch, Arrivals)\n"
"-> EncodedBatch, or None where the bytes are not packets of one size with their arrivals and nothing else");

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t given)
{
    if (given != 4 || !PyBytes_Check(args[0]) || !PyType_Check(args[2]) || !PyType_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "decode takes bytes, a number and two types");
        return NULL;
    }
    uint32_t major = (uint32_t)PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred())
        return NULL;
    const unsigned char *raw = (const unsigned char *)PyBytes_AsString(args[0]);
    Plain plain = plain_layout(raw, raw, PyBytes_Size(args[0]), major);
    if (plain.arrivals == 0)
        Py_RETURN_NONE;
    return decoded_bytes(args[0], &plain, (PyTypeObject *)args[2], (PyTypeObject *)args[3]);
}

/* What is asked of the slots of a ring. */
typedef struct {
    uint64_t most_bytes;
    uint32_t major;
    PyTypeObject *batch, *arrivals;
    PyObject *owner; /* of batches that stay where they are, or None: they are copied */
    const Next *next; /* only a plain batch that is this one */
} Asked;

/* `batch`, with what it takes to see whether it was overwritten since. */
static PyObject *lent(PyObject *batch, PyObject *owner, uint64_t slot)
{
    PyObject *number = batch ? PyLong_FromUnsignedLongLong(slot) : NULL;
    if (batch && (number == NULL || PyObject_SetAttr(batch, s_slot, number) < 0 || PyObject_SetAttr(batch, s_ring, owner) < 0))
        Py_CLEAR(batch);
    Py_XDECREF(number);
    return batch;
}

/* Whether `slot` holds what its table says it does; figures that were torn apart are found out by that, or lead nowhere. */
static int is_held(Ring *self, uint64_t at)
{
    return LOAD(&self->words[TAIL]) <= at && LOAD(&self->words[HEAD]) > at && LOAD(&slot_words(self, at)[NUMBER_PLUS_ONE]) == at + 1;
}

/* What is to be counted of a plain batch that was taken. */
typedef struct {
    uint64_t packets;
    int64_t realtime_ns, monotonic_ns; /* of its last arrival */
} Taken;

/* The batch in slot `at`; its bytes where it is not plain. Py_None where there is none to be had. */
static PyObject *take_slot(Ring *self, uint64_t at, const Asked *asked, Taken *taken)
{
    uint64_t *slot = slot_words(self, at);
    uint64_t held = is_held(self, at), position = LOAD(&slot[POSITION]);
    uint64_t length = LOAD(&slot[COUNT_AND_LENGTH]) & 0xFFFFFFFF;
    if (!held || length >= asked->most_bytes || length > self->data_bytes ||
        position % self->data_bytes > self->data_bytes - length)
        Py_RETURN_NONE;
    const unsigned char *begin = self->data + position % self->data_bytes;
    unsigned char head[HEAD_BYTES + 1 + MAX_VARINT] = {0};
    memcpy(head, begin, length < sizeof head ? (size_t)length : sizeof head);
    if (asked->next && !is_next(head, asked->next))
        Py_RETURN_NONE;
    int copied = asked->owner == Py_None;
    PyObject *raw = copied ? PyBytes_FromStringAndSize((const char *)begin, (Py_ssize_t)length) : in_place(self, begin, (Py_ssize_t)length);
    if (raw == NULL)
        return NULL;
    const unsigned char *bytes = copied ? (const unsigned char *)PyBytes_AsString(raw) : begin;
    Plain plain = plain_layout(copied ? bytes : head, bytes, (Py_ssize_t)length, asked->major);
    if (plain.arrivals) {
        taken->packets = get32((copied ? bytes : head) + 6);
        taken->realtime_ns = (int64_t)get64(bytes + plain.realtimes + 8 * (plain.arrivals - 1));
        taken->monotonic_ns = (int64_t)get64(bytes + plain.monotonics + 8 * (plain.arrivals - 1));
    }
    PyObject *batch = raw;
    if (plain.arrivals && copied)
        batch = decoded_bytes(raw, &plain, asked->batch, asked->arrivals);
    else if (plain.arrivals)
        batch = lent(decoded(raw, head, bytes, &plain, in_place(self, begin + plain.payload, (Py_ssize_t)length - plain.payload),
                             asked->batch, asked->arrivals),
                     asked->owner, at);
    if (batch != raw)
        Py_DECREF(raw);
    if (batch == NULL)
        return NULL;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!is_held(self, at) || (asked->next && plain.arrivals == 0)) {
        Py_DECREF(batch);
        Py_RETURN_NONE;
    }
    return batch;
}

PyDoc_STRVAR(ring_take_doc,
"take(most_bytes, major, EncodedBatch, Arrivals, slot)\n"
"-> EncodedBatch, or its bytes where it is not packets of one size with their arrivals and nothing else;\n"
"None if the slot is not held, was overwritten meanwhile, or has most_bytes or more");

static PyObject *ring_take(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (given != 5 || !PyType_Check(args[2]) || !PyType_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "take takes two numbers, two types and a number");
        return NULL;
    }
    if (!ring_is_open(self))
        return NULL;
    Asked asked = {PyLong_AsUnsignedLongLong(args[0]), (uint32_t)PyLong_AsUnsignedLong(args[1]),
                   (PyTypeObject *)args[2], (PyTypeObject *)args[3], Py_None, NULL};
    uint64_t at = PyLong_AsUnsignedLongLong(args[4]);
    Taken taken;
    return PyErr_Occurred() ? NULL : take_slot(self, at, &asked, &taken);
}

PyDoc_STRVAR(ring_will_sleep_doc,
"will_sleep(head) -> whether the head is still there, with the flag raised that has the writer wake us, and the ring not closed");

static int will_sleep(Ring *self, uint64_t head)
{
    STORE(&self->words[WAITING], 1); /* before the look at the head, never after */
    return LOAD(&self->words[HEAD]) == head && !LOAD(&self->words[STATE]);
}

static PyObject *ring_will_sleep(PyObject *object, PyObject *head)
{
    Ring *self = (Ring *)object;
    uint64_t seen = PyLong_AsUnsignedLongLong(head);
    if (PyErr_Occurred() || !ring_is_open(self))
        return NULL;
    return PyBool_FromLong(will_sleep(self, seen));
}

/* time.monotonic_ns() */
static uint64_t now_ns(void)
{
    struct timespec now;
#if defined(__APPLE__)
    clock_gettime(CLOCK_UPTIME_RAW, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

PyDoc_STRVAR(ring_linger_doc,
"linger(head, most_ns) -> whether the head has moved beyond `head` meanwhile\n\n"
"Look again and again, with a processor's pause between, while other threads of the interpreter go on. After it was in vain,\n"
"the next call returns at once, then the next three, seven, at the most so many.");

enum { SELDOM = 255 };

static int lingered(Ring *self, uint64_t head, uint64_t most_ns)
{
    if (self->sleeps > 0) {
        self->sleeps--;
        return 0;
    }
    const uint64_t *words = self->words;
    PyObject *kept = self->whole; /* so that the memory stays, whatever the others do */
    int moved;
    Py_INCREF(kept);
    Py_BEGIN_ALLOW_THREADS
    uint64_t until = now_ns() + most_ns;
    do {
        for (int i = 0; i < 16 && LOAD(&words[HEAD]) == head; i++)
            PAUSE();
        moved = LOAD(&words[HEAD]) != head;
    } while (!moved && now_ns() < until);
    Py_END_ALLOW_THREADS
    Py_DECREF(kept);
    self->seldom = moved ? 0 : self->seldom < SELDOM ? 2 * self->seldom + 1 : SELDOM;
    self->sleeps = self->seldom;
    return moved;
}

static PyObject *ring_linger(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Ring *self = (Ring *)object;
    if (!ring_is_open(self))
        return NULL;
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "linger takes two numbers");
        return NULL;
    }
    uint64_t head = PyLong_AsUnsignedLongLong(args[0]), most_ns = PyLong_AsUnsignedLongLong(args[1]);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(lingered(self, head, most_ns));
}

static PyMethodDef ring_methods[] = {
    {"write", (PyCFunction)(void (*)(void))ring_write, METH_FASTCALL, ring_write_doc},
    {"write_run", (PyCFunction)(void (*)(void))ring_write_run, METH_FASTCALL, ring_write_run_doc},
    {"written", ring_written, METH_O, ring_written_doc},
    {"take", (PyCFunction)(void (*)(void))ring_take, METH_FASTCALL, ring_take_doc},
    {"will_sleep", ring_will_sleep, METH_O, ring_will_sleep_doc},
    {"linger", (PyCFunction)(void (*)(void))ring_linger, METH_FASTCALL, ring_linger_doc},
    {"close", ring_close, METH_NOARGS, "Let go of the memory; idempotent."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef ring_members[] = {
    {"next_number", T_ULONGLONG, offsetof(Ring, next_number), 0, "of the batch behind what was written last"},
    {"next_sequence", T_ULONGLONG, offsetof(Ring, next_sequence), 0, "of the packet behind what was written last"},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot ring_slots[] = {
    {Py_tp_doc, "Ring(memory, slots, data_bytes, wake_fd=-1): the writer's or a reader's hold on the memory of a ring."},
    {Py_tp_init, ring_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, ring_dealloc},
    {Py_tp_methods, ring_methods},
    {Py_tp_members, ring_members},
    {0, NULL},
};

static PyTypeObject *ring_type;
static PyType_Spec ring_spec = {"usbcast_schemas._native.Ring", sizeof(Ring), 0, Py_TPFLAGS_DEFAULT, ring_slots};

/* ---- A reader's short way ---- */

typedef struct {
    PyObject_HEAD
    Ring *ring;
    Asked asked;
    Next next;
    uint64_t at;
    int open;
    char refused; /* what comes next has to be looked at by somebody else */
    char dozed;   /* it was slept, and nothing has come since */
    int due;      /* somebody else has something to do before more is taken */
    int64_t until_ns, doze_until_ns;
    PyObject *lent; /* what was handed out in place last; it counts as delivered when it is given back whole */
    uint64_t lent_slot, lent_packets;
    uint64_t batches, packets, delivered;
    Taken last;
    int64_t last_ns;
} Follower;

enum { LINGER_NS = 30000 }; /* to sleep and be woken costs both sides some 10 µs each */

static int follower_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Follower *self = (Follower *)object;
    PyObject *ring, *batch, *arrivals, *owner;
    unsigned long long most_bytes;
    unsigned int major;
    if (!PyArg_ParseTuple(args, "OKIO!O!O", &ring, &most_bytes, &major, &PyType_Type, &batch, &PyType_Type, &arrivals, &owner))
        return -1;
    if (self->ring || Py_TYPE(ring) != ring_type) {
        PyErr_SetString(PyExc_TypeError, "a follower is made once, and of a Ring");
        return -1;
    }
    Py_INCREF(ring);
    Py_INCREF(batch);
    Py_INCREF(arrivals);
    Py_INCREF(owner);
    self->ring = (Ring *)ring;
    self->asked = (Asked){most_bytes, major, (PyTypeObject *)batch, (PyTypeObject *)arrivals, owner, &self->next};
    return 0;
}

static void follower_dealloc(PyObject *object)
{
    Follower *self = (Follower *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF((PyObject *)self->ring);
    Py_XDECREF((PyObject *)self->asked.batch);
    Py_XDECREF((PyObject *)self->asked.arrivals);
    Py_XDECREF(self->asked.owner);
    Py_XDECREF(self->lent);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(follower_open_doc,
"open(slot, epoch, number, first_sequence, until_ns, doze_until_ns) -> whether there is something in the slot\n\n"
"From now on, until it is closed, `next` takes what goes on there. Times are of time.monotonic_ns().");

static PyObject *follower_open(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Follower *self = (Follower *)object;
    if (given != 6) {
        PyErr_SetString(PyExc_TypeError, "open takes six numbers");
        return NULL;
    }
    self->at = PyLong_AsUnsignedLongLong(args[0]);
    self->next.epoch = PyLong_AsUnsignedLongLong(args[1]);
    self->next.number = PyLong_AsUnsignedLongLong(args[2]);
    self->next.first = PyLong_AsUnsignedLongLong(args[3]);
    self->until_ns = PyLong_AsLongLong(args[4]);
    self->doze_until_ns = PyLong_AsLongLong(args[5]);
    if (PyErr_Occurred() || !ring_is_open(self->ring))
        return NULL;
    self->open = 1;
    self->refused = self->dozed = self->due = 0;
    return PyBool_FromLong(LOAD(&self->ring->words[HEAD]) > self->at);
}

/* `encoded` as the application sees it: an object of `type` with four attributes. */
static PyObject *wrapped(PyObject *encoded, PyTypeObject *type, PyObject *meaning)
{
    PyObject *nothing = PyTuple_New(0), *zero = PyLong_FromLong(0);
    PyObject *made = nothing && zero ? ((newfunc)PyType_GetSlot(type, Py_tp_new))(type, nothing, NULL) : NULL;
    if (made && (PyObject_SetAttr(made, s_encoded, encoded) < 0 || PyObject_SetAttr(made, s_meaning, meaning) < 0 ||
                 PyObject_SetAttr(made, s_skip, zero) < 0 || PyObject_SetAttr(made, s_gaps, nothing) < 0))
        Py_CLEAR(made);
    Py_XDECREF(nothing);
    Py_XDECREF(zero);
    Py_DECREF(encoded);
    return made;
}

/* Who asks for more is through with what was lent: 1 if it was whole to the end. */
static int give_back(Follower *self)
{
    if (self->lent == NULL)
        return 1;
    if (LOAD(&self->ring->words[TAIL]) > self->lent_slot)
        return 0;
    self->delivered += self->lent_packets;
    Py_CLEAR(self->lent);
    return 1;
}

PyDoc_STRVAR(follower_next_doc,
"next() -> EncodedBatch; next(Batch, meaning) -> Batch; None if there is none, or none that is so simple\n\n"
"The batch in the next slot, if it holds packets of one size with their arrivals and nothing else, and goes on where the one\n"
"before it ended. The first one that is taken from until_ns on is the last.");

static PyObject *follower_next(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Follower *self = (Follower *)object;
    if (given != 0 && (given != 2 || !PyType_Check(args[0]))) {
        PyErr_SetString(PyExc_TypeError, "next takes nothing, or a type and a meaning");
        return NULL;
    }
    if (!self->open || !self->ring->open || self->due)
        Py_RETURN_NONE;
    if (!give_back(self)) {
        self->due = 1;
        Py_RETURN_NONE;
    }
    if (LOAD(&self->ring->words[HEAD]) <= self->at)
        Py_RETURN_NONE;
    Taken taken;
    PyObject *batch = take_slot(self->ring, self->at, &self->asked, &taken);
    if (batch == Py_None)
        self->refused = 1;
    if (batch == NULL || batch == Py_None)
        return batch;
    PyObject *made = given ? wrapped(batch, (PyTypeObject *)args[0], args[1]) : batch;
    if (made == NULL)
        return NULL;
    self->last = taken;
    self->last_ns = (int64_t)now_ns();
    self->due = self->last_ns >= self->until_ns;
    self->dozed = 0;
    self->batches++;
    self->packets += taken.packets;
    self->next.number++;
    self->next.first += taken.packets;
    if (self->asked.owner == Py_None)
        self->delivered += taken.packets;
    else {
        Py_INCREF(made);
        self->lent = made;
        self->lent_slot = self->at;
        self->lent_packets = taken.packets;
    }
    self->at++;
    return made;
}

/* For how long one may sleep; the flag is then raised that has the writer wake who sleeps. */
static int64_t doze_ns(Follower *self)
{
    int64_t rest_ns = 0;
    if (self->open && self->ring->open && !self->due && !self->dozed && !self->refused && give_back(self) &&
        LOAD(&self->ring->words[HEAD]) == self->at && !lingered(self->ring, self->at, LINGER_NS))
        rest_ns = self->doze_until_ns - (int64_t)now_ns();
    if (rest_ns <= 0 || !self->ring->open || !will_sleep(self->ring, self->at))
        return 0;
    self->dozed = 1;
    return rest_ns;
}

PyDoc_STRVAR(follower_doze_doc,
"doze() -> for how many seconds one may sleep; 0.0 if one may not, or something else than a batch has woken last time\n\n"
"The flag is then raised that has the writer wake who sleeps.");

static PyObject *follower_doze(PyObject *object, PyObject *Py_UNUSED(none))
{
    return PyFloat_FromDouble((double)doze_ns((Follower *)object) / 1e9);
}

#if defined(__linux__)
/* Wait on an epoll: 1 if there was something, 0 if the time is up, -1 with an exception if a signal's handler raised one. */
static int wait_for(int epoll, int64_t most_ns)
{
    struct epoll_event events[8];
    int64_t until_ns = (int64_t)now_ns() + most_ns;
    for (;;) {
        int64_t rest_ns = until_ns - (int64_t)now_ns(), rest_ms = rest_ns > 0 ? (rest_ns + 999999) / 1000000 : 0;
        int found, reason;
        Py_BEGIN_ALLOW_THREADS
        found = epoll_wait(epoll, events, 8, rest_ms > INT_MAX ? INT_MAX : (int)rest_ms);
        reason = errno;
        Py_END_ALLOW_THREADS
        if (found >= 0)
            return found > 0;
        errno = reason;
        if (reason != EINTR)
            PyErr_SetFromErrno(PyExc_OSError);
        if (reason != EINTR || PyErr_CheckSignals() < 0)
            return -1;
    }
}
#endif

PyDoc_STRVAR(follower_wait_doc,
"wait(epoll, most_s, Batch, meaning) -> as next(Batch, meaning), after a sleep\n\n"
"None at once if one may not doze. It is slept until something comes for one of what is watched by that descriptor.");

static PyObject *follower_wait(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    Follower *self = (Follower *)object;
    if (given != 4) {
        PyErr_SetString(PyExc_TypeError, "wait takes a descriptor, a number, a type and a meaning");
        return NULL;
    }
    int epoll = (int)PyLong_AsLong(args[0]);
    double most_s = PyFloat_AsDouble(args[1]);
    if (PyErr_Occurred())
        return NULL;
#if defined(__linux__)
    int64_t rest_ns = doze_ns(self);
    if (rest_ns > 0) {
        if (most_s < (double)rest_ns / 1e9)
            rest_ns = most_s > 0 ? (int64_t)(most_s * 1e9) : 0;
        int woken = wait_for(epoll, rest_ns);
        return woken < 0 ? NULL : follower_next(object, args + 2, 2);
    }
#else
    (void)self, (void)epoll, (void)most_s;
#endif
    Py_RETURN_NONE;
}

PyDoc_STRVAR(follower_close_doc,
"close() -> (batches, packets, delivered, realtime_ns, monotonic_ns, taken_ns, lent), or None if there is nothing to say\n\n"
"Nothing more is taken. How many batches and packets were, since it was closed last; how many packets of them are delivered;\n"
"the last one's arrival, and when it was taken; and what was handed out in place and has not been given back, or None.");

static PyObject *follower_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    Follower *self = (Follower *)object;
    self->open = 0;
    if (self->batches == 0 && self->delivered == 0 && self->lent == NULL)
        Py_RETURN_NONE;
    PyObject *lent = self->lent ? self->lent : Py_None;
    PyObject *told = Py_BuildValue("KKKLLLO", (unsigned long long)self->batches, (unsigned long long)self->packets,
                                   (unsigned long long)self->delivered, (long long)self->last.realtime_ns,
                                   (long long)self->last.monotonic_ns, (long long)self->last_ns, lent);
    if (told) {
        Py_CLEAR(self->lent);
        self->batches = self->packets = self->delivered = 0;
    }
    return told;
}

static PyMethodDef follower_methods[] = {
    {"open", (PyCFunction)(void (*)(void))follower_open, METH_FASTCALL, follower_open_doc},
    {"next", (PyCFunction)(void (*)(void))follower_next, METH_FASTCALL, follower_next_doc},
    {"wait", (PyCFunction)(void (*)(void))follower_wait, METH_FASTCALL, follower_wait_doc},
    {"doze", follower_doze, METH_NOARGS, follower_doze_doc},
    {"close", follower_close, METH_NOARGS, follower_close_doc},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef follower_members[] = {
    {"refused", T_BOOL, offsetof(Follower, refused), READONLY, "whether there was something that is not so simple"},
    {"dozed", T_BOOL, offsetof(Follower, dozed), READONLY, "whether it was slept, and nothing was taken since"},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot follower_slots[] = {
    {Py_tp_doc, "Follower(ring, most_bytes, major, EncodedBatch, Arrivals, owner): takes what simply follows, one by one."},
    {Py_tp_init, follower_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, follower_dealloc},
    {Py_tp_methods, follower_methods},
    {Py_tp_members, follower_members},
    {0, NULL},
};

static PyType_Spec follower_spec = {"usbcast_schemas._native.Follower", sizeof(Follower), 0, Py_TPFLAGS_DEFAULT, follower_slots};

/* ---- The short way ---- */

/* What has gone through since it was asked last. */
typedef struct {
    uint64_t batches, packets, size_bytes;
    int64_t realtime_ns, monotonic_ns; /* of the last transfer */
} Tally;

typedef struct {
    PyObject_HEAD
    Ring *ring;
    PyTypeObject *transfer;
    int open;
    Run run;
    int64_t close_ns, next_ns, until_ns;
    Tally tally;
} ShortWay;

static int short_init(PyObject *object, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    ShortWay *self = (ShortWay *)object;
    PyObject *ring, *transfer;
    unsigned int contract;
    unsigned long long epoch;
    if (!PyArg_ParseTuple(args, "OO!IK", &ring, &PyType_Type, &transfer, &contract, &epoch))
        return -1;
    if (self->ring || Py_TYPE(ring) != ring_type) {
        PyErr_SetString(PyExc_TypeError, "a short way is made once, and leads into a Ring");
        return -1;
    }
    Py_INCREF(ring);
    Py_INCREF(transfer);
    self->ring = (Ring *)ring;
    self->transfer = (PyTypeObject *)transfer;
    self->run.contract = contract;
    self->run.epoch = epoch;
    return 0;
}

static void short_dealloc(PyObject *object)
{
    ShortWay *self = (ShortWay *)object;
    PyTypeObject *type = Py_TYPE(object);
    Py_XDECREF((PyObject *)self->ring);
    Py_XDECREF((PyObject *)self->transfer);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

PyDoc_STRVAR(short_open_doc,
"open(most_bytes, packet_size, number, first_sequence, close_ns, next_ns, until_ns)\n\n"
"From now on, until it is closed, what is put goes through. Batches of at most so much payload, numbered from here on.");

static PyObject *short_open(PyObject *object, PyObject *const *args, Py_ssize_t given)
{
    ShortWay *self = (ShortWay *)object;
    if (given != 7) {
        PyErr_SetString(PyExc_TypeError, "open takes seven numbers");
        return NULL;
    }
    Run *run = &self->run;
    run->most_bytes = PyLong_AsSsize_t(args[0]);
    run->packet_size = (uint32_t)PyLong_AsUnsignedLong(args[1]);
    run->number = PyLong_AsUnsignedLongLong(args[2]);
    run->first = PyLong_AsUnsignedLongLong(args[3]);
    self->close_ns = PyLong_AsLongLong(args[4]);
    self->next_ns = PyLong_AsLongLong(args[5]);
    self->until_ns = PyLong_AsLongLong(args[6]);
    if (PyErr_Occurred())
        return NULL;
    self->open = run->packet_size != 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(short_put_doc,
"put(items) -> 0 if nothing was done; 1 if they are in the ring as batches, and its sleeping readers woken; 2 if from\n"
"until_ns on\n\n"
"Nothing is done while it is closed, if anything else is in the list than whole packets, and for what comes sooner than\n"
"close_ns after what came before it: unless that is so much that it makes no larger batches to wait for more.");

static PyObject *short_put(PyObject *object, PyObject *items)
{
    ShortWay *self = (ShortWay *)object;
    if (!PyList_Check(items)) {
        PyErr_SetString(PyExc_TypeError, "put takes a list");
        return NULL;
    }
    Py_ssize_t count = PyList_Size(items);
    if (!self->open || !self->ring->open || count == 0)
        return PyLong_FromLong(0);
    Run run = self->run;
    run.size_bytes = 0;
    int whole = take_pieces(self->ring, items, count, self->transfer, run.packet_size, run.most_bytes);
    if (whole > 0) {
        const Piece *last = &self->ring->pieces[count - 1];
        if (last->monotonic_ns < self->next_ns && 2 * last->size <= run.most_bytes)
            whole = 0;
        else
            whole = write_pieces(self->ring, count, &run);
        if (whole > 0) {
            self->next_ns = last->monotonic_ns + self->close_ns;
            self->tally.realtime_ns = last->realtime_ns;
            self->tally.monotonic_ns = last->monotonic_ns;
        }
    }
    self->tally.batches += run.number - self->run.number;
    self->tally.packets += run.first - self->run.first;
    self->tally.size_bytes += run.size_bytes;
    self->run = run;
    if (whole < 0)
        return NULL;
    return PyLong_FromLong(whole && self->tally.monotonic_ns >= self->until_ns ? 2 : whole);
}

PyDoc_STRVAR(short_close_doc, "Nothing goes through any more.");

static PyObject *short_close(PyObject *object, PyObject *Py_UNUSED(none))
{
    ((ShortWay *)object)->open = 0;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(short_settle_doc,
"settle() -> (batches, packets, size_bytes, realtime_ns, monotonic_ns), what went through since it was asked last and the\n"
"times of the last of it; None if nothing did");

static PyObject *short_settle(PyObject *object, PyObject *Py_UNUSED(none))
{
    ShortWay *self = (ShortWay *)object;
    Tally tally = self->tally;
    if (tally.batches == 0)
        Py_RETURN_NONE;
    self->tally = (Tally){0, 0, 0, 0, 0};
    return Py_BuildValue("KKKLL", (unsigned long long)tally.batches, (unsigned long long)tally.packets,
                         (unsigned long long)tally.size_bytes, (long long)tally.realtime_ns, (long long)tally.monotonic_ns);
}

static PyMethodDef short_methods[] = {
    {"open", (PyCFunction)(void (*)(void))short_open, METH_FASTCALL, short_open_doc},
    {"put", short_put, METH_O, short_put_doc},
    {"close", short_close, METH_NOARGS, short_close_doc},
    {"settle", short_settle, METH_NOARGS, short_settle_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot short_slots[] = {
    {Py_tp_doc, "ShortWay(ring, Transfer, contract, epoch): from what was read into the ring, in one call; with a tally."},
    {Py_tp_init, short_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, short_dealloc},
    {Py_tp_methods, short_methods},
    {0, NULL},
};

static PyType_Spec short_spec = {"usbcast_schemas._native.ShortWay", sizeof(ShortWay), 0, Py_TPFLAGS_DEFAULT, short_slots};

/* ---- The module ---- */

static PyMethodDef functions[] = {
    {"decode", (PyCFunction)(void (*)(void))decode, METH_FASTCALL, decode_doc},
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
    s_ring = PyUnicode_InternFromString("ring");
    s_slot = PyUnicode_InternFromString("slot");
    s_encoded = PyUnicode_InternFromString("_encoded");
    s_meaning = PyUnicode_InternFromString("_meaning");
    s_skip = PyUnicode_InternFromString("_skip");
    s_gaps = PyUnicode_InternFromString("gaps");
    for (int i = 0; i < 13; i++)
        s_batch[i] = PyUnicode_InternFromString(BATCH_FIELDS[i]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module ? PyType_FromSpec(&ring_spec) : NULL;
    if (type == NULL || PyModule_AddObjectRef(module, "Ring", type) < 0)
        Py_CLEAR(module);
    ring_type = (PyTypeObject *)type;
    type = module ? PyType_FromSpec(&follower_spec) : NULL;
    if (type == NULL || PyModule_AddObjectRef(module, "Follower", type) < 0)
        Py_CLEAR(module);
    Py_XDECREF(type);
    type = module ? PyType_FromSpec(&short_spec) : NULL;
    if (type == NULL || PyModule_AddObjectRef(module, "ShortWay", type) < 0)
        Py_CLEAR(module);
    Py_XDECREF(type);
    return module;
}

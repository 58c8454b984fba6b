/* The hot path of a batch, in C: the same bytes and the same order of stores as usbcast_schemas/batch.py and ring/, which
 * say what they mean and do the work where this is not built. Layouts: docs/wire.md. Everything is called with the GIL held:
 * a copy takes microseconds, and to get the GIL back from a busy thread may take milliseconds. Only what waits lets go of it.
 *
 * batch.c: bytes of a batch, and the objects made of them. ring.c: the memory of a ring. short_way.c: from what was read into
 * the ring. messages.c: out of a ZeroMQ socket. fanout.c: into a publishing one. follower.c: from the ring, or a socket, to the
 * application. module.c: what Python sees of it.
 */
#ifndef USBCAST_CORE_H
#define USBCAST_CORE_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire is little-endian: on this machine the work is done in Python"
#endif

#pragma GCC visibility push(hidden) /* nothing but what Python looks for is seen outside */

#define LOAD(word) __atomic_load_n((word), __ATOMIC_SEQ_CST)
#define STORE(word, value) __atomic_store_n((word), (value), __ATOMIC_SEQ_CST)

static inline uint32_t get32(const unsigned char *at) { uint32_t value; memcpy(&value, at, 4); return value; }
static inline uint64_t get64(const unsigned char *at) { uint64_t value; memcpy(&value, at, 8); return value; }

/* ---- batch.c ---- */

enum { HEAD_BYTES = 42, MAX_VARINT = 10 }; /* what stands before the arrivals; and the longest length of a field */

/* A transfer, or a part of one that is larger than a batch; its bytes are held by the list that it is in. */
typedef struct {
    const unsigned char *bytes;
    Py_ssize_t size;
    int64_t realtime_ns, monotonic_ns;
} Piece;

int take_piece(Piece *piece, PyObject *transfer, uint32_t packet_size);

/* Batches that follow one another: what is the same for all, and what comes next. */
typedef struct {
    uint32_t contract, packet_size;
    Py_ssize_t most_bytes;
    uint64_t epoch, number, first, size_bytes;
} Run;

uint64_t head_size(Py_ssize_t count, uint64_t payload_bytes);
unsigned char *put_head(unsigned char *at, const Piece *pieces, Py_ssize_t count, uint64_t payload_bytes, const Run *run);

/* A batch of whole packets of one size, with one column of arrivals of each kind and nothing else to say. */
typedef struct {
    Py_ssize_t arrivals;                        /* 0 if it is anything else */
    Py_ssize_t counts, realtimes, monotonics;   /* where the columns begin */
    Py_ssize_t payload;
} Plain;

Plain plain_layout(const unsigned char *head, const unsigned char *raw, Py_ssize_t size, uint32_t major);

/* What is to be counted of a plain batch that was taken. */
typedef struct {
    uint64_t packets;
    int64_t realtime_ns, monotonic_ns; /* of its last arrival */
} Taken;

Taken taken_of(const unsigned char *head, const unsigned char *raw, const Plain *plain);

/* Where the next batch of a run is expected to go on. */
typedef struct {
    uint64_t epoch, number, first;
} Next;

int is_next(const unsigned char *head, const Next *next);
PyObject *decoded(PyObject *raw, const unsigned char *head, const unsigned char *bytes, const Plain *plain, PyObject *payload,
                  PyTypeObject *batch, PyTypeObject *arrivals);
PyObject *decoded_bytes(PyObject *raw, const unsigned char *bytes, Py_ssize_t size, const Plain *plain, PyTypeObject *batch,
                        PyTypeObject *arrivals);
PyObject *decode(PyObject *module, PyObject *const *args, Py_ssize_t given);
extern const char decode_doc[];

/* ---- ring.c ---- */

/* Words of its header that others than this file look at. */
enum { HEAD = 16, TAIL = 17 };

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
    int sleeps, seldom; /* reader spin back-off: polls left to skip, and the length of the last skip */
} Ring;

int ring_is_open(Ring *self);
Py_ssize_t take_pieces(Ring *self, PyObject *items, PyTypeObject *transfer, const Run *run);
int write_pieces(Ring *self, Py_ssize_t count, Run *run);
int send_newest(Ring *self, PyObject *publish, uint64_t most);

/* What is asked of the slots of a ring. */
typedef struct {
    uint64_t most_bytes;
    uint32_t major;
    PyTypeObject *batch, *arrivals;
    PyObject *owner; /* of batches that stay where they are, or None: they are copied */
    const Next *next; /* only a plain batch that is this one */
} Asked;

PyObject *take_slot(Ring *self, uint64_t at, const Asked *asked, Taken *taken);
int spin_waited(Ring *self, uint64_t head, uint64_t most_ns);
int will_sleep(Ring *self, uint64_t head);
uint64_t now_ns(void);

/* ---- messages.c ---- */

/* A zmq_msg_t. */
typedef union {
    unsigned char bytes[64];
    void *aligned;
} Frame;

enum { DONTWAIT = 1, SNDMORE = 2, SRCFD = 2, FD = 14, EVENTS = 15 };

/* The functions of zmq.h that are used here. */
typedef struct {
    int (*init)(Frame *);
    int (*init_size)(Frame *, size_t);
    int (*copy)(Frame *, Frame *);
    void *(*data)(Frame *);
    size_t (*size)(const Frame *);
    int (*more)(const Frame *);
    int (*property)(const Frame *, int);
    const char *(*text)(const Frame *, const char *);
    int (*send)(Frame *, void *, int);
    int (*recv)(Frame *, void *, int);
    int (*close)(Frame *);
    int (*option)(void *, int, void *, size_t *);
    int (*error)(void);
    const char *(*words)(int);
} Zmq;

extern Zmq zmq;

void *socket_at(unsigned long long address);
PyObject *zmq_failed(int reason);

typedef struct {
    PyObject_HEAD
    void *socket;   /* NULL if it is closed */
    PyObject *left; /* the frames of a message that has come and is still to be received */
    char drained;   /* nothing more had come when it was looked last */
} Messages;

PyObject *receive_message(Messages *self, const Py_buffer *topic, int (*fits)(void *, const unsigned char *, Py_ssize_t),
                          void *about);
PyObject *find_libzmq(PyObject *module, PyObject *path);
extern const char find_libzmq_doc[];

/* ---- fanout.c ---- */

int send_by(PyObject *sender, const void *bytes, Py_ssize_t size);

/* ---- The types, and what is to be there before they are used ---- */

extern PyTypeObject *ring_type, *messages_type, *fanout_type, *sender_type;
extern PyType_Spec ring_spec, short_way_spec, messages_spec, fanout_spec, sender_spec, follower_spec;

int batch_ready(void);
int ring_ready(void);
int messages_ready(void);
int follower_ready(void);

#pragma GCC visibility pop

#endif

/* schemas/core as Python sees it: objects, exceptions, and the interpreter's lock (GIL). Everything is called with the GIL held: a copy
 * takes microseconds, and to get the GIL back from a busy thread may take milliseconds. Only what waits lets go of it.
 *
 * maker.c: objects of any class. batch.c: those made of the bytes of a batch. ring.c: a ring. stream_writer.c: from what was read into the ring. messages.c: out of a
 * ZeroMQ socket. fanout.c: into a publishing one. stream_reader.c: from the ring, or a socket, to the application. module.c: the module.
 */
#ifndef USBCAST_BINDING_H
#define USBCAST_BINDING_H

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* From 3.12 on None is immortal, and the headers leave out its reference; what is built with them runs with 3.11 as well. */
#undef Py_RETURN_NONE
#define Py_RETURN_NONE return Py_NewRef(Py_None)
#include <structmember.h>

#include "../core/usbcast_core.h"

#pragma GCC visibility push(hidden) /* nothing but what Python looks for is seen outside */

/* Raise the exception that stands for a UsbcastError; return NULL. */
PyObject *failed(int error);

/* ---- maker.c ---- */

typedef struct {
    PyObject *name, *descriptor;
    descrsetfunc set; /* of the descriptor, or NULL: then it is set by its name */
    PyObject *value;  /* NULL if it is given each time */
} Attribute;

/* Makes objects of a class: some attributes are given each time, the others are constants. */
typedef struct {
    PyObject_HEAD
    PyTypeObject *type; /* NULL before it is made */
    Py_ssize_t given, count;
    Attribute *attributes; /* first those that are given */
} Maker;

enum { MOST_GIVEN = 16 };

/* `object` if it is a Maker of so many given attributes; else NULL with an exception. */
Maker *as_maker(PyObject *object, Py_ssize_t least, Py_ssize_t most);

/* A new object with these values of the given attributes, which are borrowed. */
PyObject *made_by(const Maker *maker, PyObject *const *given);

/* ---- batch.c ---- */

/* What a batch is made of, in the order in which its class names the given attributes. `slot` is there for batches that stay in a ring,
 * and only if the class names it. */
enum { G_RAW, G_EPOCH, G_NUMBER, G_FIRST, G_COUNT, G_SIZE, G_ARRIVALS, G_PAYLOAD, GIVEN_OF_BATCH, G_SLOT = GIVEN_OF_BATCH, GIVEN_IN_PLACE };

/* All of a transfer: 1; 0 if it is no whole packets in bytes; -1 with an exception. */
int take_piece(UsbcastPiece *piece, PyObject *transfer, uint32_t packet_size);

/* `head` are the first bytes of `raw`, from a place where nobody writes; all of it is at `bytes`. `payload` is stolen. */
PyObject *decoded(PyObject *raw, const unsigned char *head, const unsigned char *bytes, const UsbcastPlain *plain, PyObject *payload,
                  uint64_t slot, const Maker *batch, PyTypeObject *arrivals);

/* `raw` is bytes, or a view of them, which are so many at `bytes`, and stay as they are. */
PyObject *decoded_bytes(PyObject *raw, const unsigned char *bytes, Py_ssize_t size, const UsbcastPlain *plain, const Maker *batch,
                        PyTypeObject *arrivals);
PyObject *decode(PyObject *module, PyObject *const *args, Py_ssize_t given);
extern const char decode_doc[];

/* ---- ring.c ---- */

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    PyObject *whole; /* all of it, to be looked at only */
    int open;
    UsbcastRing core;
} Ring;

int ring_is_open(Ring *self);
Py_ssize_t take_pieces(Ring *self, PyObject *items, PyTypeObject *transfer, const UsbcastRun *run);
int write_parts(Ring *self, PyObject *parts, uint64_t number, uint64_t first, uint64_t packets, int64_t *beyond);
int send_newest(Ring *self, PyObject *publish, uint64_t most);

/* What is asked of the slots of a ring. */
typedef struct {
    uint64_t most_bytes;
    uint32_t major;
    Maker *batch; /* with GIVEN_IN_PLACE attributes the bytes stay where they are; else they are copied */
    PyTypeObject *arrivals;
    const UsbcastNext *next; /* only a plain batch that is this one */
} Asked;

static inline int is_in_place(const Asked *asked) { return asked->batch->given == GIVEN_IN_PLACE; }

PyObject *take_slot(Ring *self, uint64_t at, const Asked *asked, UsbcastTaken *taken);
int spin_waited(Ring *self, uint64_t head, uint64_t most_ns);

/* ---- messages.c ---- */

/* As usbcast_schemas/messages.py, which says why. */
enum { IN_PLACE_BYTES = 64 * 1024 };

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

extern PyTypeObject *maker_type, *ring_type, *messages_type, *fanout_type, *sender_type;
extern PyType_Spec maker_spec, ring_spec, stream_writer_spec, messages_spec, fanout_spec, sender_spec, stream_reader_spec;

int batch_ready(void);
int stream_writer_ready(void);
int messages_ready(void);

#pragma GCC visibility pop

#endif

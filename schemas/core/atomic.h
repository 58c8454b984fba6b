/* How the words that processes share are read and written: in one piece, and in one order for all of them. */
#ifndef USBCAST_ATOMIC_H
#define USBCAST_ATOMIC_H

#define LOAD(word) __atomic_load_n((word), __ATOMIC_SEQ_CST)
#define STORE(word, value) __atomic_store_n((word), (value), __ATOMIC_SEQ_CST)

#endif

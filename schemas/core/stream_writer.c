/* The writer of a stream: transfers of whole packets become batches in a ring, by a plan, and are counted. */
#include "usbcast_core.h"

int usbcast_writer_put(UsbcastStreamWriter *writer, int64_t count, UsbcastPlan *plan)
{
    UsbcastRing *ring = writer->ring;
    UsbcastRun run = {writer->contract, plan->packet_size, plan->max_payload_bytes, writer->epoch,
                      ring->next_number, ring->next_sequence, 0};
    int64_t size = 0;
    for (int64_t at = 0; at < count; at++)
        size += ring->pieces[at].size;
    UsbcastPiece last = ring->pieces[count - 1];
    if (last.monotonic_ns < plan->not_before_ns && 2 * size <= plan->max_payload_bytes)
        return 0;
    uint64_t number = run.number, first = run.first;
    int written = usbcast_ring_write_pieces(ring, count, &run);
    UsbcastTally *tally = &writer->tally;
    writer->unsent += run.number - number;
    tally->batches += run.number - number;
    tally->packets += run.first - first;
    tally->size_bytes += run.size_bytes;
    if (written > 0) {
        tally->realtime_ns = last.realtime_ns;
        tally->monotonic_ns = last.monotonic_ns;
        plan->not_before_ns = last.monotonic_ns + plan->spacing_ns;
    }
    return written;
}

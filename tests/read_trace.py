"""Reads a trace by the schema that Perfetto publishes, and prints what it says, a line for each packet."""

import sys

from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

KINDS = {
    TrackEvent.TYPE_SLICE_BEGIN: "begin",
    TrackEvent.TYPE_SLICE_END: "end",
    TrackEvent.TYPE_INSTANT: "instant",
}


def check(message):
    """Everything in it is in the schema."""
    if len(UnknownFieldSet(message)):
        sys.exit(f"unknown fields in {message.DESCRIPTOR.name}: {message}")
    for field, value in message.ListFields():
        if field.message_type:
            for part in value if field.is_repeated else [value]:
                check(part)


trace = Trace()
with open(sys.argv[1], "rb") as file:
    trace.ParseFromString(file.read())
for packet in trace.packet:
    check(packet)
    if packet.HasField("track_descriptor"):
        track = packet.track_descriptor
        print("track", track.uuid, track.parent_uuid, track.name, sep="\t")
    elif packet.HasField("track_event"):
        event = packet.track_event
        print(KINDS[event.type], event.track_uuid, packet.timestamp, event.name, sep="\t")
    else:
        sys.exit(f"neither a track nor an event: {packet}")

from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_DEVICE: _ClassVar[Stage]
    STAGE_HOST: _ClassVar[Stage]
    STAGE_FRAMING: _ClassVar[Stage]
    STAGE_OUTLET: _ClassVar[Stage]
    STAGE_RING: _ClassVar[Stage]
    STAGE_SUBSCRIPTION: _ClassVar[Stage]
    STAGE_BRIDGE: _ClassVar[Stage]
    STAGE_STORE: _ClassVar[Stage]
STAGE_UNSPECIFIED: Stage
STAGE_DEVICE: Stage
STAGE_HOST: Stage
STAGE_FRAMING: Stage
STAGE_OUTLET: Stage
STAGE_RING: Stage
STAGE_SUBSCRIPTION: Stage
STAGE_BRIDGE: Stage
STAGE_STORE: Stage

class Loss(_message.Message):
    __slots__ = ("stage", "reason", "packets", "bytes", "at_least")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    reason: str
    packets: int
    bytes: int
    at_least: bool
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ..., reason: _Optional[str] = ..., packets: _Optional[int] = ..., bytes: _Optional[int] = ..., at_least: bool = ...) -> None: ...

class DeviceInfo(_message.Message):
    __slots__ = ("vendor_id", "product_id", "serial", "manufacturer", "product", "bus_path")
    VENDOR_ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_ID_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    MANUFACTURER_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    BUS_PATH_FIELD_NUMBER: _ClassVar[int]
    vendor_id: int
    product_id: int
    serial: str
    manufacturer: str
    product: str
    bus_path: str
    def __init__(self, vendor_id: _Optional[int] = ..., product_id: _Optional[int] = ..., serial: _Optional[str] = ..., manufacturer: _Optional[str] = ..., product: _Optional[str] = ..., bus_path: _Optional[str] = ...) -> None: ...

class DeviceEvent(_message.Message):
    __slots__ = ("kind", "realtime_ns", "monotonic_ns", "detail", "device", "clock_step_ns")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[DeviceEvent.Kind]
        KIND_ATTACHED: _ClassVar[DeviceEvent.Kind]
        KIND_DETACHED: _ClassVar[DeviceEvent.Kind]
        KIND_STALLED: _ClassVar[DeviceEvent.Kind]
        KIND_RESYNCHRONISED: _ClassVar[DeviceEvent.Kind]
        KIND_OVERFLOWED: _ClassVar[DeviceEvent.Kind]
        KIND_FAILED: _ClassVar[DeviceEvent.Kind]
        KIND_REPLACED: _ClassVar[DeviceEvent.Kind]
        KIND_CLOCK_STEPPED: _ClassVar[DeviceEvent.Kind]
    KIND_UNSPECIFIED: DeviceEvent.Kind
    KIND_ATTACHED: DeviceEvent.Kind
    KIND_DETACHED: DeviceEvent.Kind
    KIND_STALLED: DeviceEvent.Kind
    KIND_RESYNCHRONISED: DeviceEvent.Kind
    KIND_OVERFLOWED: DeviceEvent.Kind
    KIND_FAILED: DeviceEvent.Kind
    KIND_REPLACED: DeviceEvent.Kind
    KIND_CLOCK_STEPPED: DeviceEvent.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    REALTIME_NS_FIELD_NUMBER: _ClassVar[int]
    MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_STEP_NS_FIELD_NUMBER: _ClassVar[int]
    kind: DeviceEvent.Kind
    realtime_ns: int
    monotonic_ns: int
    detail: str
    device: DeviceInfo
    clock_step_ns: int
    def __init__(self, kind: _Optional[_Union[DeviceEvent.Kind, str]] = ..., realtime_ns: _Optional[int] = ..., monotonic_ns: _Optional[int] = ..., detail: _Optional[str] = ..., device: _Optional[_Union[DeviceInfo, _Mapping]] = ..., clock_step_ns: _Optional[int] = ...) -> None: ...

class StreamEnd(_message.Message):
    __slots__ = ("reason", "packets", "realtime_ns")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    REALTIME_NS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    packets: int
    realtime_ns: int
    def __init__(self, reason: _Optional[str] = ..., packets: _Optional[int] = ..., realtime_ns: _Optional[int] = ...) -> None: ...

class PacketBatch(_message.Message):
    __slots__ = ("contract", "packet_count", "epoch", "number", "first_sequence", "packet_size", "packet_ends", "arrival_packets", "arrival_realtime_ns", "arrival_monotonic_ns", "lost_before", "events", "end", "holes", "payload")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    PACKET_COUNT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PACKET_SIZE_FIELD_NUMBER: _ClassVar[int]
    PACKET_ENDS_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_PACKETS_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_REALTIME_NS_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    LOST_BEFORE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    HOLES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    contract: int
    packet_count: int
    epoch: int
    number: int
    first_sequence: int
    packet_size: int
    packet_ends: _containers.RepeatedScalarFieldContainer[int]
    arrival_packets: _containers.RepeatedScalarFieldContainer[int]
    arrival_realtime_ns: _containers.RepeatedScalarFieldContainer[int]
    arrival_monotonic_ns: _containers.RepeatedScalarFieldContainer[int]
    lost_before: _containers.RepeatedCompositeFieldContainer[Loss]
    events: _containers.RepeatedCompositeFieldContainer[DeviceEvent]
    end: StreamEnd
    holes: _containers.RepeatedCompositeFieldContainer[LostRange]
    payload: bytes
    def __init__(self, contract: _Optional[int] = ..., packet_count: _Optional[int] = ..., epoch: _Optional[int] = ..., number: _Optional[int] = ..., first_sequence: _Optional[int] = ..., packet_size: _Optional[int] = ..., packet_ends: _Optional[_Iterable[int]] = ..., arrival_packets: _Optional[_Iterable[int]] = ..., arrival_realtime_ns: _Optional[_Iterable[int]] = ..., arrival_monotonic_ns: _Optional[_Iterable[int]] = ..., lost_before: _Optional[_Iterable[_Union[Loss, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[DeviceEvent, _Mapping]]] = ..., end: _Optional[_Union[StreamEnd, _Mapping]] = ..., holes: _Optional[_Iterable[_Union[LostRange, _Mapping]]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Notification(_message.Message):
    __slots__ = ("contract", "epoch", "oldest_sequence", "next_sequence", "next_number", "sent_realtime_ns", "sent_monotonic_ns", "ended", "source_silent_ns")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OLDEST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    SENT_REALTIME_NS_FIELD_NUMBER: _ClassVar[int]
    SENT_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SILENT_NS_FIELD_NUMBER: _ClassVar[int]
    contract: int
    epoch: int
    oldest_sequence: int
    next_sequence: int
    next_number: int
    sent_realtime_ns: int
    sent_monotonic_ns: int
    ended: bool
    source_silent_ns: int
    def __init__(self, contract: _Optional[int] = ..., epoch: _Optional[int] = ..., oldest_sequence: _Optional[int] = ..., next_sequence: _Optional[int] = ..., next_number: _Optional[int] = ..., sent_realtime_ns: _Optional[int] = ..., sent_monotonic_ns: _Optional[int] = ..., ended: bool = ..., source_silent_ns: _Optional[int] = ...) -> None: ...

class Field(_message.Message):
    __slots__ = ("name", "type", "offset", "big_endian", "unit", "scale", "zero")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BIG_ENDIAN_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    ZERO_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    offset: int
    big_endian: bool
    unit: str
    scale: float
    zero: float
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., offset: _Optional[int] = ..., big_endian: bool = ..., unit: _Optional[str] = ..., scale: _Optional[float] = ..., zero: _Optional[float] = ...) -> None: ...

class Ring(_message.Message):
    __slots__ = ("path", "wake_path", "nonce")
    PATH_FIELD_NUMBER: _ClassVar[int]
    WAKE_PATH_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    path: str
    wake_path: str
    nonce: int
    def __init__(self, path: _Optional[str] = ..., wake_path: _Optional[str] = ..., nonce: _Optional[int] = ...) -> None: ...

class StreamInfo(_message.Message):
    __slots__ = ("contract", "stream", "epoch", "device", "profile_name", "profile_toml", "fields", "packet_size", "nominal_rate_hz", "data_endpoints", "ring", "host_id", "oldest_sequence", "next_sequence", "next_number", "attached", "ended", "node_version", "node_pid", "started_realtime_ns", "ring_bytes", "reader_host_id", "batch_bytes", "source", "source_silent_ns", "has_tail", "clock_steps")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_NAME_FIELD_NUMBER: _ClassVar[int]
    PROFILE_TOML_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    PACKET_SIZE_FIELD_NUMBER: _ClassVar[int]
    NOMINAL_RATE_HZ_FIELD_NUMBER: _ClassVar[int]
    DATA_ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    RING_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    OLDEST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    NODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_REALTIME_NS_FIELD_NUMBER: _ClassVar[int]
    RING_BYTES_FIELD_NUMBER: _ClassVar[int]
    READER_HOST_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_BYTES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SILENT_NS_FIELD_NUMBER: _ClassVar[int]
    HAS_TAIL_FIELD_NUMBER: _ClassVar[int]
    CLOCK_STEPS_FIELD_NUMBER: _ClassVar[int]
    contract: int
    stream: str
    epoch: int
    device: DeviceInfo
    profile_name: str
    profile_toml: str
    fields: _containers.RepeatedCompositeFieldContainer[Field]
    packet_size: int
    nominal_rate_hz: float
    data_endpoints: _containers.RepeatedScalarFieldContainer[str]
    ring: Ring
    host_id: str
    oldest_sequence: int
    next_sequence: int
    next_number: int
    attached: bool
    ended: bool
    node_version: str
    node_pid: int
    started_realtime_ns: int
    ring_bytes: int
    reader_host_id: str
    batch_bytes: int
    source: str
    source_silent_ns: int
    has_tail: bool
    clock_steps: int
    def __init__(self, contract: _Optional[int] = ..., stream: _Optional[str] = ..., epoch: _Optional[int] = ..., device: _Optional[_Union[DeviceInfo, _Mapping]] = ..., profile_name: _Optional[str] = ..., profile_toml: _Optional[str] = ..., fields: _Optional[_Iterable[_Union[Field, _Mapping]]] = ..., packet_size: _Optional[int] = ..., nominal_rate_hz: _Optional[float] = ..., data_endpoints: _Optional[_Iterable[str]] = ..., ring: _Optional[_Union[Ring, _Mapping]] = ..., host_id: _Optional[str] = ..., oldest_sequence: _Optional[int] = ..., next_sequence: _Optional[int] = ..., next_number: _Optional[int] = ..., attached: bool = ..., ended: bool = ..., node_version: _Optional[str] = ..., node_pid: _Optional[int] = ..., started_realtime_ns: _Optional[int] = ..., ring_bytes: _Optional[int] = ..., reader_host_id: _Optional[str] = ..., batch_bytes: _Optional[int] = ..., source: _Optional[str] = ..., source_silent_ns: _Optional[int] = ..., has_tail: bool = ..., clock_steps: _Optional[int] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("stream",)
    STREAM_FIELD_NUMBER: _ClassVar[int]
    stream: str
    def __init__(self, stream: _Optional[str] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("stream", "epoch", "from_sequence", "until_sequence", "from_number", "byte_budget", "newest_only")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FROM_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FROM_NUMBER_FIELD_NUMBER: _ClassVar[int]
    BYTE_BUDGET_FIELD_NUMBER: _ClassVar[int]
    NEWEST_ONLY_FIELD_NUMBER: _ClassVar[int]
    stream: str
    epoch: int
    from_sequence: int
    until_sequence: int
    from_number: int
    byte_budget: int
    newest_only: bool
    def __init__(self, stream: _Optional[str] = ..., epoch: _Optional[int] = ..., from_sequence: _Optional[int] = ..., until_sequence: _Optional[int] = ..., from_number: _Optional[int] = ..., byte_budget: _Optional[int] = ..., newest_only: bool = ...) -> None: ...

class ClockRequest(_message.Message):
    __slots__ = ("sent_monotonic_ns", "stream")
    SENT_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    sent_monotonic_ns: int
    stream: str
    def __init__(self, sent_monotonic_ns: _Optional[int] = ..., stream: _Optional[str] = ...) -> None: ...

class CommandRequest(_message.Message):
    __slots__ = ("stream", "control", "out", "timeout_ms")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CONTROL_FIELD_NUMBER: _ClassVar[int]
    OUT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    control: ControlTransfer
    out: OutTransfer
    timeout_ms: int
    def __init__(self, stream: _Optional[str] = ..., control: _Optional[_Union[ControlTransfer, _Mapping]] = ..., out: _Optional[_Union[OutTransfer, _Mapping]] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class ControlTransfer(_message.Message):
    __slots__ = ("request_type", "request", "value", "index", "data", "length")
    REQUEST_TYPE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    request_type: int
    request: int
    value: int
    index: int
    data: bytes
    length: int
    def __init__(self, request_type: _Optional[int] = ..., request: _Optional[int] = ..., value: _Optional[int] = ..., index: _Optional[int] = ..., data: _Optional[bytes] = ..., length: _Optional[int] = ...) -> None: ...

class OutTransfer(_message.Message):
    __slots__ = ("endpoint", "data")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    endpoint: int
    data: bytes
    def __init__(self, endpoint: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("stream", "report")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    stream: str
    report: SubscriptionReport
    def __init__(self, stream: _Optional[str] = ..., report: _Optional[_Union[SubscriptionReport, _Mapping]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("contract", "request_id", "describe", "fetch", "clock", "command", "health", "report")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    contract: int
    request_id: int
    describe: DescribeRequest
    fetch: FetchRequest
    clock: ClockRequest
    command: CommandRequest
    health: HealthRequest
    report: ReportRequest
    def __init__(self, contract: _Optional[int] = ..., request_id: _Optional[int] = ..., describe: _Optional[_Union[DescribeRequest, _Mapping]] = ..., fetch: _Optional[_Union[FetchRequest, _Mapping]] = ..., clock: _Optional[_Union[ClockRequest, _Mapping]] = ..., command: _Optional[_Union[CommandRequest, _Mapping]] = ..., health: _Optional[_Union[HealthRequest, _Mapping]] = ..., report: _Optional[_Union[ReportRequest, _Mapping]] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("streams",)
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[StreamInfo]
    def __init__(self, streams: _Optional[_Iterable[_Union[StreamInfo, _Mapping]]] = ...) -> None: ...

class LostRange(_message.Message):
    __slots__ = ("first_sequence", "count", "stage", "reason", "batches", "on_purpose")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    ON_PURPOSE_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    count: int
    stage: Stage
    reason: str
    batches: int
    on_purpose: bool
    def __init__(self, first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., stage: _Optional[_Union[Stage, str]] = ..., reason: _Optional[str] = ..., batches: _Optional[int] = ..., on_purpose: bool = ...) -> None: ...

class Gap(_message.Message):
    __slots__ = ("contract", "epoch", "lost", "next_number")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    NEXT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    contract: int
    epoch: int
    lost: LostRange
    next_number: int
    def __init__(self, contract: _Optional[int] = ..., epoch: _Optional[int] = ..., lost: _Optional[_Union[LostRange, _Mapping]] = ..., next_number: _Optional[int] = ...) -> None: ...

class FetchReply(_message.Message):
    __slots__ = ("batch_count", "epoch", "oldest_sequence", "next_sequence", "next_number", "lost", "complete")
    BATCH_COUNT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OLDEST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    batch_count: int
    epoch: int
    oldest_sequence: int
    next_sequence: int
    next_number: int
    lost: _containers.RepeatedCompositeFieldContainer[LostRange]
    complete: bool
    def __init__(self, batch_count: _Optional[int] = ..., epoch: _Optional[int] = ..., oldest_sequence: _Optional[int] = ..., next_sequence: _Optional[int] = ..., next_number: _Optional[int] = ..., lost: _Optional[_Iterable[_Union[LostRange, _Mapping]]] = ..., complete: bool = ...) -> None: ...

class ClockReply(_message.Message):
    __slots__ = ("sent_monotonic_ns", "received_realtime_ns", "received_monotonic_ns", "replied_realtime_ns", "replied_monotonic_ns", "reader_ahead_ns", "reader_uncertainty_ns")
    SENT_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_REALTIME_NS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    REPLIED_REALTIME_NS_FIELD_NUMBER: _ClassVar[int]
    REPLIED_MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    READER_AHEAD_NS_FIELD_NUMBER: _ClassVar[int]
    READER_UNCERTAINTY_NS_FIELD_NUMBER: _ClassVar[int]
    sent_monotonic_ns: int
    received_realtime_ns: int
    received_monotonic_ns: int
    replied_realtime_ns: int
    replied_monotonic_ns: int
    reader_ahead_ns: int
    reader_uncertainty_ns: int
    def __init__(self, sent_monotonic_ns: _Optional[int] = ..., received_realtime_ns: _Optional[int] = ..., received_monotonic_ns: _Optional[int] = ..., replied_realtime_ns: _Optional[int] = ..., replied_monotonic_ns: _Optional[int] = ..., reader_ahead_ns: _Optional[int] = ..., reader_uncertainty_ns: _Optional[int] = ...) -> None: ...

class CommandReply(_message.Message):
    __slots__ = ("data", "written")
    DATA_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    written: int
    def __init__(self, data: _Optional[bytes] = ..., written: _Optional[int] = ...) -> None: ...

class Ledger(_message.Message):
    __slots__ = ("stage", "unit", "entered", "left", "overhead", "held", "lost", "counters")
    class LostEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class CountersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STAGE_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    ENTERED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    unit: str
    entered: int
    left: int
    overhead: int
    held: int
    lost: _containers.ScalarMap[str, int]
    counters: _containers.ScalarMap[str, int]
    def __init__(self, stage: _Optional[str] = ..., unit: _Optional[str] = ..., entered: _Optional[int] = ..., left: _Optional[int] = ..., overhead: _Optional[int] = ..., held: _Optional[int] = ..., lost: _Optional[_Mapping[str, int]] = ..., counters: _Optional[_Mapping[str, int]] = ...) -> None: ...

class SubscriptionReport(_message.Message):
    __slots__ = ("name", "via", "ledger", "lag_ns", "next_sequence", "age_ns", "joining", "next_number")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    LAG_NS_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AGE_NS_FIELD_NUMBER: _ClassVar[int]
    JOINING_FIELD_NUMBER: _ClassVar[int]
    NEXT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    name: str
    via: str
    ledger: Ledger
    lag_ns: int
    next_sequence: int
    age_ns: int
    joining: bool
    next_number: int
    def __init__(self, name: _Optional[str] = ..., via: _Optional[str] = ..., ledger: _Optional[_Union[Ledger, _Mapping]] = ..., lag_ns: _Optional[int] = ..., next_sequence: _Optional[int] = ..., age_ns: _Optional[int] = ..., joining: bool = ..., next_number: _Optional[int] = ...) -> None: ...

class StreamHealth(_message.Message):
    __slots__ = ("stream", "epoch", "ledgers", "subscriptions", "discrepancies", "attached", "ended", "problem", "source", "source_silent_ns", "read_held_ns")
    STREAM_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEDGERS_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    DISCREPANCIES_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_SILENT_NS_FIELD_NUMBER: _ClassVar[int]
    READ_HELD_NS_FIELD_NUMBER: _ClassVar[int]
    stream: str
    epoch: int
    ledgers: _containers.RepeatedCompositeFieldContainer[Ledger]
    subscriptions: _containers.RepeatedCompositeFieldContainer[SubscriptionReport]
    discrepancies: _containers.RepeatedScalarFieldContainer[str]
    attached: bool
    ended: bool
    problem: str
    source: str
    source_silent_ns: int
    read_held_ns: int
    def __init__(self, stream: _Optional[str] = ..., epoch: _Optional[int] = ..., ledgers: _Optional[_Iterable[_Union[Ledger, _Mapping]]] = ..., subscriptions: _Optional[_Iterable[_Union[SubscriptionReport, _Mapping]]] = ..., discrepancies: _Optional[_Iterable[str]] = ..., attached: bool = ..., ended: bool = ..., problem: _Optional[str] = ..., source: _Optional[str] = ..., source_silent_ns: _Optional[int] = ..., read_held_ns: _Optional[int] = ...) -> None: ...

class HealthReply(_message.Message):
    __slots__ = ("streams", "refused", "node_memory_bytes", "node_version", "node_pid")
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    NODE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    NODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_PID_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[StreamHealth]
    refused: _containers.ScalarMap[str, int]
    node_memory_bytes: int
    node_version: str
    node_pid: int
    def __init__(self, streams: _Optional[_Iterable[_Union[StreamHealth, _Mapping]]] = ..., refused: _Optional[_Mapping[str, int]] = ..., node_memory_bytes: _Optional[int] = ..., node_version: _Optional[str] = ..., node_pid: _Optional[int] = ...) -> None: ...

class ErrorReply(_message.Message):
    __slots__ = ("code", "message")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CODE_UNSPECIFIED: _ClassVar[ErrorReply.Code]
        CODE_MALFORMED: _ClassVar[ErrorReply.Code]
        CODE_VERSION: _ClassVar[ErrorReply.Code]
        CODE_STREAM_UNKNOWN: _ClassVar[ErrorReply.Code]
        CODE_EPOCH_OVER: _ClassVar[ErrorReply.Code]
        CODE_DEVICE: _ClassVar[ErrorReply.Code]
        CODE_BUSY: _ClassVar[ErrorReply.Code]
        CODE_FORBIDDEN: _ClassVar[ErrorReply.Code]
    CODE_UNSPECIFIED: ErrorReply.Code
    CODE_MALFORMED: ErrorReply.Code
    CODE_VERSION: ErrorReply.Code
    CODE_STREAM_UNKNOWN: ErrorReply.Code
    CODE_EPOCH_OVER: ErrorReply.Code
    CODE_DEVICE: ErrorReply.Code
    CODE_BUSY: ErrorReply.Code
    CODE_FORBIDDEN: ErrorReply.Code
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: ErrorReply.Code
    message: str
    def __init__(self, code: _Optional[_Union[ErrorReply.Code, str]] = ..., message: _Optional[str] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("contract", "request_id", "described", "fetched", "clock", "commanded", "health", "error")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIBED_FIELD_NUMBER: _ClassVar[int]
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    COMMANDED_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    contract: int
    request_id: int
    described: DescribeReply
    fetched: FetchReply
    clock: ClockReply
    commanded: CommandReply
    health: HealthReply
    error: ErrorReply
    def __init__(self, contract: _Optional[int] = ..., request_id: _Optional[int] = ..., described: _Optional[_Union[DescribeReply, _Mapping]] = ..., fetched: _Optional[_Union[FetchReply, _Mapping]] = ..., clock: _Optional[_Union[ClockReply, _Mapping]] = ..., commanded: _Optional[_Union[CommandReply, _Mapping]] = ..., health: _Optional[_Union[HealthReply, _Mapping]] = ..., error: _Optional[_Union[ErrorReply, _Mapping]] = ...) -> None: ...

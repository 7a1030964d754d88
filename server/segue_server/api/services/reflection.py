"""Reflection, under both of its names: grpc_reflection knows grpc.reflection.v1alpha alone, and tools ask for v1 first.

The messages of both are the same on the wire, so one servicer answers for both.
"""

from collections.abc import Iterable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

_METHOD: Final = "ServerReflectionInfo"
V1: Final = "grpc.reflection.v1.ServerReflection"
SERVICES: Final = (V1, reflection.SERVICE_NAME)


def enable_reflection(services: Iterable[str], server: grpc.aio.Server) -> None:
    """Let `server` describe `services`, and reflection itself."""
    _describe_v1(descriptor_pool.Default())
    names = (*services, *SERVICES)
    reflection.enable_server_reflection(names, server)
    handler = grpc.stream_stream_rpc_method_handler(
        aio.ReflectionServicer(names).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(V1, {_METHOD: handler}),))


def _describe_v1(pool: Any) -> None:
    """Add the file of v1 to `pool`, made from that of v1alpha."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = file.name.replace("v1alpha", "v1"), "grpc.reflection.v1"
    for message in file.message_type:
        for field in filter(lambda field: field.type_name, message.field):
            field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
        method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    pool.AddSerializedFile(file.SerializeToString())

"""Text from files and pipes, as UTF-8."""

from segue_client.errors import InvalidRequest


def decoded(name: str, data: bytes) -> str:
    """Decode all of a text; raise InvalidRequest, with its name, where it is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start:,}"
        raise InvalidRequest(message) from error

"""`models/<name>/config.pbtxt`: how NVIDIA Triton's ONNX Runtime backend serves the newest version of a model.

Triton keeps h and c of each sequence ("implicit state"), initially zeros, and a request holds only tokens [1, T]. segue
itself does not read the file.

Edits to the file are kept: its first line holds the SHA-256 of the rest, and export replaces the file only if that
still matches.
"""

import hashlib
from pathlib import Path
from string import Template
from typing import Final

from segue_training.atomic import write_atomically

from segue_export.errors import ArtifactError
from segue_export.manifest import Manifest

CONFIG_FILE: Final = "config.pbtxt"

_FIRST_LINE: Final = Template("# Written by segue export, which replaces it until it is edited: sha256 $sha256\n")
# Triton pairs several states in the alphabetical order of their names, whatever the pairs say (server#8586): those of
# the inputs and of the outputs must come in one order, and c, h and c_out, h_out do.
_BODY: Final = Template("""\
#
# The batch is the second axis of h and c, and Triton batches along the first axis only. So max_batch_size is 0: an
# instance runs one request of one sequence at a time. Many sequences may be open, and take turns. Where there are
# cores to spare, raise the count of instances.

backend: "onnxruntime"
max_batch_size: 0
version_policy { latest { num_versions: 1 } }
instance_group [ { count: 1 } ]
input [ { name: "tokens" data_type: TYPE_INT64 dims: [ 1, -1 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ -1, -1, $vocabulary ] } ]
sequence_batching {
  # Triton forgets a sequence that is idle for longer. Its own default is one second.
  max_sequence_idle_microseconds: 60000000
  oldest { max_candidate_sequences: 1024 }
  # Without an initial state, a sequence would begin with whatever is in memory.
  state [
    {
      input_name: "h"
      output_name: "h_out"
      data_type: TYPE_FP32
      dims: [ $layers, -1, $hidden ]
      initial_state { name: "zero_h" data_type: TYPE_FP32 dims: [ $layers, 1, $hidden ] zero_data: true }
    },
    {
      input_name: "c"
      output_name: "c_out"
      data_type: TYPE_FP32
      dims: [ $layers, -1, $hidden ]
      initial_state { name: "zero_c" data_type: TYPE_FP32 dims: [ $layers, 1, $hidden ] zero_data: true }
    }
  ]
}
""")


def triton_config(manifest: Manifest) -> str:
    """Return the file's text for a model of this shape."""
    body = _BODY.substitute(vocabulary=len(manifest.vocabulary), layers=manifest.layers, hidden=manifest.hidden)
    return _FIRST_LINE.substitute(sha256=hashlib.sha256(body.encode()).hexdigest()) + body


def write_triton_config(home: Path, manifest: Manifest) -> None:
    """Write the file into `home`, a model's folder, unless it was edited. Raises ArtifactError."""
    path = home / CONFIG_FILE
    try:
        if _may_replace(path):
            write_atomically(path, triton_config(manifest).encode())
    except OSError as error:
        raise ArtifactError(f"cannot write {path}, which Triton needs: {error.strerror}") from error


def _may_replace(path: Path) -> bool:
    """Return whether `path` does not exist, or is unchanged since segue wrote it."""
    if not path.is_symlink() and not path.exists():
        return True
    if path.is_symlink() or not path.is_file():
        return False
    first, _, body = path.read_bytes().partition(b"\n")
    written = _FIRST_LINE.substitute(sha256=hashlib.sha256(body).hexdigest())
    return first + b"\n" == written.encode()

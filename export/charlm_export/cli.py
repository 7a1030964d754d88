"""The `charlm export` command."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True, help="Folder of models."
)
@click.option("--name", help="Name of the model.  [default: the name of its corpus]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(*, checkpoint: Path, models: Path, name: str | None, as_json: bool) -> None:
    """Write the folder CHECKPOINT as an ONNX artifact: the next version below MODELS/NAME.

    The graph is compared with torch first; where they differ, nothing is written.
    """
    from charlm_export.export import export_checkpoint

    done = export_checkpoint(checkpoint, models, name)
    if as_json:
        report = {"folder": str(done.folder), "bytes": done.graph_bytes, "parity": done.parity.graph}
        click.echo(json.dumps(report))
        return
    click.echo(
        f"{done.folder}: {done.manifest.layers} x {done.manifest.hidden} {done.manifest.architecture}, "
        f"{done.graph_bytes / 1e6:.1f} MB; differs from torch by {done.parity.graph:.1e} at most"
    )

"""`optiinfra crds`: writes the CustomResourceDefinitions and their reference page, or checks that they are current."""

from pathlib import Path

import click

from optiinfra.api import crd
from optiinfra.api.errors import OutdatedFiles
from optiinfra.api.reference import DOCUMENT, reference


@click.command()
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("crds"),
    show_default=True,
    help="Folder of the CRDs; it holds nothing else.",
)
@click.option(
    "--docs",
    type=click.Path(dir_okay=False, path_type=Path),
    is_flag=False,
    flag_value=Path(DOCUMENT),
    default=None,
    help=f"Also the reference page (without a value: {DOCUMENT}).",
)
@click.option("--check", is_flag=True, help="Write nothing; fail when a file is not what the models say.")
def crds(*, directory: Path, docs: Path | None, check: bool) -> None:
    """Write the CustomResourceDefinitions (one file each), or check them."""
    files = {directory / name: text for name, text in crd.rendered().items()}
    if docs is not None:
        files[docs] = reference()
    if not check:
        for path in crd.write(files):
            click.echo(f"wrote {path}")
        return
    try:
        crd.check(files, directory=directory)
    except OutdatedFiles as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{len(files)} files are current")

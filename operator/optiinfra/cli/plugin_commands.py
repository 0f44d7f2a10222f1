"""The commands of `kubectl optiinfra`: read what is recommended, approve it, take it as a patch.

They work with the caller's own kubeconfig and rights and read the objects' status; the operator's HTTP API is not
needed. They apply no patch: what is printed is for review and for Git.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from optiinfra.api.patch_formats import ObjectPatch, PatchFormat, kustomize, strategic
from optiinfra.api.v1alpha1 import ResourceOptimization
from optiinfra.api.v1alpha1.status_parts import RecommendationStatus
from optiinfra.cli import plugin_cluster as cluster
from optiinfra.cli import plugin_words as words
from optiinfra.cluster.client import KubernetesClient
from optiinfra.errors import OptiInfraError

T = TypeVar("T")


class RecommendationId(click.ParamType[str]):
    """An id of a recommendation: lower-case letters and digits, at most 32."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse what can be no id."""
        if not value.isalnum() or not value.isascii() or len(value) > 32:
            self.fail(f"{value[:40]!r} is no id of a recommendation; see `kubectl optiinfra status`", param, ctx)
        return value


_ID = RecommendationId()
_namespace = click.option("-n", "--namespace", default="", help="Namespace; the context's own when left out.")


def _ask(context: click.Context, work: Callable[[KubernetesClient], Awaitable[T]]) -> T:
    """Run one conversation with the API server; what goes wrong ends with one line."""

    async def talk() -> T:
        async with KubernetesClient.from_environment(context.obj) as client:
            return await work(client)

    try:
        return asyncio.run(talk())
    except OptiInfraError as error:
        raise click.ClickException(str(error)) from error


@click.group(name="kubectl optiinfra", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False), help="Kubeconfig; $KUBECONFIG otherwise.")
@click.version_option(package_name="optiinfra")
@click.pass_context
def plugin(context: click.Context, kubeconfig: str | None) -> None:
    """See what OptiInfra recommends, approve it, and take it as a patch."""
    context.obj = kubeconfig


@plugin.command()
@_namespace
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of all namespaces.")
@click.pass_context
def status(context: click.Context, namespace: str, *, all_namespaces: bool) -> None:
    """List objects with their recommendations and approvals."""
    where = "" if all_namespaces else namespace or cluster.default_namespace(context.obj)
    found: list[ResourceOptimization] = _ask(context, lambda client: cluster.objects(client, namespace=where))
    click.echo(words.overview(found) if found else f"no ResourceOptimization in {where or 'any namespace'}")


@plugin.command()
@click.argument("identifier", metavar="ID", type=_ID)
@_namespace
@click.pass_context
def explain(context: click.Context, identifier: str, namespace: str) -> None:
    """Show a recommendation with its evidence, effects, risk and what an approval would allow."""
    where = namespace or cluster.default_namespace(context.obj)
    found = _ask(context, lambda client: cluster.find(client, identifier, namespace=where))
    click.echo(words.explanation(found.obj, found.item))


@plugin.command()
@click.argument("name")
@_namespace
@click.pass_context
def why(context: click.Context, name: str, namespace: str) -> None:
    """Say why an object does what it does: decision, conditions, refusals and the story of its actions."""
    where = namespace or cluster.default_namespace(context.obj)
    obj = _ask(context, lambda client: cluster.one(client, namespace=where, name=name))
    click.echo(words.reasons(obj))


@plugin.command()
@click.argument("identifier", metavar="ID", type=_ID)
@_namespace
@click.option("--revoke", is_flag=True, help="Take the approval back.")
@click.pass_context
def approve(context: click.Context, identifier: str, namespace: str, *, revoke: bool) -> None:
    """Approve a recommendation by its id (annotation optiinfra.io/approve), or revoke it."""
    where = namespace or cluster.default_namespace(context.obj)

    async def work(client: KubernetesClient) -> tuple[cluster.Found, str]:
        found = await cluster.find(client, identifier, namespace=where)
        return found, await cluster.change_approvals(client, found, add=not revoke)

    found, text = _ask(context, work)
    verb = "revoked" if revoke else "approved"
    click.echo(f"{verb}: {words.title(found.item)}")
    if not revoke and found.item.envelope is not None:
        click.echo(words.allowed(found.item))
    click.echo(f"optiinfra.io/approve of {found.obj.key}: {text or '(none)'}")


@plugin.command()
@click.argument("identifier", metavar="ID", type=_ID)
@_namespace
@click.option(
    "--format",
    "style",
    type=click.Choice([one.value for one in PatchFormat]),
    default=PatchFormat.KUSTOMIZE.value,
    show_default=True,
    help="How the patch is written.",
)
@click.option("--of", "subject", default="", metavar="KIND/NAME", help="Only this object, where several change.")
@click.pass_context
def patch(context: click.Context, identifier: str, namespace: str, style: str, subject: str) -> None:
    """Print a recommendation as a patch; nothing is applied."""
    where = namespace or cluster.default_namespace(context.obj)

    async def work(client: KubernetesClient) -> str:
        found = await cluster.find(client, identifier, namespace=where)
        if style == PatchFormat.STRATEGIC:
            return strategic(found.item, namespace=found.obj.metadata.namespace)
        made = await cluster.patches(client, found)
        return _written(found.item, made, style=style, subject=subject)

    click.echo(_ask(context, work), nl=False)


def _written(item: RecommendationStatus, made: tuple[ObjectPatch, ...], *, style: str, subject: str) -> str:
    chosen = [one for one in made if not subject or str(one.subject) == subject]
    names = ", ".join(str(one.subject) for one in made)
    if not chosen:
        raise cluster.NotFoundError(f"it changes {names}, and not {subject}")
    if style == PatchFormat.KUSTOMIZE:
        return kustomize(chosen, identifier=item.id)
    if len(chosen) > 1:
        raise cluster.NotFoundError(
            f"it changes {names}: a JSON patch is of one object, so say which with --of KIND/NAME"
        )
    return json.dumps(chosen[0].operations, indent=2) + "\n"

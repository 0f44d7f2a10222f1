"""`optiinfra release --all`: give every held value back. Run by the chart's pre-delete Job, and by hand in need.

It first turns the kill switch on (the key `paused` of a ConfigMap), so that a running leader writes nothing any more,
then releases each held HPA by the same rules as always: only what is still ours, in the steps that are written beside
it (`policy.maxReplicaStep`, or all at once with `release: Immediate`) unless the caller says otherwise. Where those
would take longer than an uninstall waits, steps are larger.
"""

import asyncio
import sys
from collections.abc import Callable

import click

from optiinfra import logs
from optiinfra.cluster.client import KubernetesClient
from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.floor import Floor
from optiinfra.cluster.kill_switch import KillSwitch
from optiinfra.cluster.own_scaler import MANAGED_BY_LABEL, OwnScalers
from optiinfra.cluster.scalers import HELD_LABEL, ScalerRecord, hpa_path, parse_scaler
from optiinfra.control.kill_switch import OBEYED_WITHIN
from optiinfra.control.release import Released, delete_own, release_all, step_in_time
from optiinfra.errors import SettingsError
from optiinfra.settings import OperatorSettings, Scope, read_settings


async def run(settings: OperatorSettings, *, step: Callable[[ScalerRecord], int | None], kill: bool) -> list[Released]:
    """Set the kill switch and release everything in scope, each in the steps that `step` says."""
    kubeconfig = str(settings.kubeconfig) if settings.kubeconfig is not None else None
    namespaces = settings.watch_namespaces if settings.scope is Scope.NAMESPACES else ("",)
    async with KubernetesClient.from_environment(kubeconfig) as client:
        if kill:
            switch = KillSwitch(client, namespace=settings.namespace, name=settings.control_config_map)
            if await switch.turn_on(by="optiinfra release --all"):
                await asyncio.sleep(OBEYED_WITHIN)
            else:
                click.echo(f"{switch.shown} does not exist: a running operator may take floors again", err=True)

        async def labelled(selector: str) -> list[ScalerRecord]:
            query = {"labelSelector": selector}
            return [parse_scaler(d) for name in namespaces for d in await client.list(hpa_path(name), query=query)]

        deleted = await delete_own(OwnScalers(client), await labelled(f"{MANAGED_BY_LABEL}=optiinfra"))
        held = await labelled(f"{HELD_LABEL}=true")
        return [*deleted, *await release_all(Floor(client), held, step=step)]


@click.command()
@click.option("--all", "everything", is_flag=True, help="Release every held HorizontalPodAutoscaler in scope.")
@click.option(
    "--max-step",
    type=click.IntRange(min=1),
    help="Replicas to lower at a time, 15 s apart; left out: as each object's policy.maxReplicaStep and release say.",
)
@click.option("--immediate", is_flag=True, help="All at once, whatever the objects say.")
@click.option("--keep-switch-off", is_flag=True, help="Do not set the kill switch; the operator may take floors again.")
def release(*, everything: bool, max_step: int | None, immediate: bool, keep_switch_off: bool) -> None:
    """Give held minReplicas back to what they were."""
    if not everything:
        raise click.UsageError("say --all: there is no other choice yet, and it should not happen by accident")
    if immediate and max_step is not None:
        raise click.UsageError("--immediate and --max-step contradict each other: give one of them")

    def step(record: ScalerRecord) -> int | None:
        return None if immediate else max_step or step_in_time(record)

    try:
        settings = read_settings()
        logs.configure(settings.log_level)
        results = asyncio.run(run(settings, step=step, kill=not keep_switch_off))
    except (SettingsError, ClusterError) as error:
        raise click.ClickException(str(error)) from error
    for result in results:
        click.echo(f"{result.key.namespace}/{result.key.name}: {result.outcome}")
    click.echo(f"{sum(1 for result in results if result.done)} of {len(results)} released")
    sys.exit(0 if all(result.done for result in results) else 1)

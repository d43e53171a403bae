"""`bonsai doctor`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import rich_click as click
from rich.console import Console

from bonsai_core.cli.live import quiet_libraries
from bonsai_core.cli.settings import installed
from bonsai_core.registry.registry import Registry


@click.command()
@click.option("--online", is_flag=True, help="Also ask whether the hub can be reached: one request.")
@click.option("--ray-address", metavar="auto|HOST:PORT", help="Also ask a Ray cluster: nodes, devices, versions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(online: bool, ray_address: str | None, as_json: bool) -> None:
    """Check the installation and the machine, and say what to do: versions, devices, memory, optional parts, plugins.

    A tiny random model is pruned as a trial. The exit status is 1 if something is broken.
    """
    from bonsai_core.cli.doctor import print_findings
    from bonsai_core.doctor.examine import examine

    findings = list(examine(_installed, online=online, ray_address=ray_address))
    broken = any(finding.grade == "broken" for finding in findings)
    if as_json:
        click.echo(json.dumps({"broken": broken, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        print_findings(Console(highlight=False), findings)
    sys.exit(int(broken))


def _installed() -> Registry:
    quiet_libraries()
    return installed()

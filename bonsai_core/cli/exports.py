"""What `bonsai export` shows."""

from __future__ import annotations

from rich.console import Group, RenderableType

from bonsai_core.cli.printing import plain
from bonsai_core.runtimes.export import Exported
from bonsai_core.runtimes.verify import Verification


def export_view(exported: Exported) -> RenderableType:
    """What was written, whether it is the model, and how to run it."""
    lines = [f"wrote {exported.path}"]
    if exported.verification is not None:
        lines.append(verified_line(exported.verification))
    elif exported.unverified is not None:
        lines.append(f"not verified: {exported.unverified}")
    lines += ["run it with:", *(f"    {command}" for command in exported.commands)]
    return Group(*map(plain, lines))


def verified_line(found: Verification) -> str:
    """How it compares with transformers, in a sentence."""
    same = f"{found.same_tokens} of {found.new_tokens} generated tokens are the same"
    if found.tolerance is None:
        losses = f"{found.loss:.4f} nats per token, {found.reference_loss:.4f} in transformers (float32)"
        return f"runs in {found.runtime}: loss on a short text {losses}; {same}"
    return (
        f"verified in {found.runtime}: {found.tokens} log-probabilities are within {found.difference:.1g} nats of "
        f"transformers (float32; allowed {found.tolerance:g}); {same}"
    )

"""Commands that name an environment."""

from __future__ import annotations

from test_commands import REFERENCE, Machine, machine

__all__ = ["machine"]

SECTIONS = (
    '[environments.staging]\npath_prefix = "staging"\npins_from = "first-fetch"\n'
    '[environments.prod]\npath_prefix = "prod"\npins_from = "promotion"\npromote_from = "staging"\n'
    '[environments.site]\npath_prefix = "site"\npins_from = "lock"\n'
)


def test_nothing_drifts_where_people_decide(machine: Machine) -> None:
    """What upstream offers is checked where first fetches pin; elsewhere a check is refused, and raises no alarm."""
    with (machine.folder / "iarproxy.toml").open("a") as file:
        file.write(SECTIONS)
    machine.publish(1)
    assert 0 == machine.run("pull", REFERENCE).code
    for environment in ("prod", "site"):
        refused = machine.run("drift", "check", "--env", environment, REFERENCE)
        assert 1 == refused.code
        assert f"`iarproxy diff env:{environment} upstream` compares" in refused.err
    assert 0 == machine.run("drift", "check", "--env", "staging").code
    assert [] == machine.run("drift", "list", "--json").json["drifts"]


def test_an_unknown_environment(machine: Machine) -> None:
    """It is a mistake of usage, and names those that there are."""
    with (machine.folder / "iarproxy.toml").open("a") as file:
        file.write(SECTIONS)
    for command in (("pins", "list"), ("explain", REFERENCE), ("drift", "check")):
        found = machine.run(*command, "--env", "prd")
        assert 2 == found.code
        assert "prd: no such environment; there are default, staging, prod, site" in found.err

"""A Ray of one's own asks no other host anything."""

from __future__ import annotations

import pytest
from ray._private import services
from ray.dashboard.subprocesses.module import SubprocessModule
from ray.dashboard.utils import DashboardHeadModule, get_all_modules

from amn_ray.platform import local_ray


def test_all_of_ray_s_modules_are_known() -> None:
    """If this fails with another Ray: look whether a new one contacts others."""
    found = {module.__name__ for kind in (SubprocessModule, DashboardHeadModule) for module in get_all_modules(kind)}
    assert found - {"PlatformEventsHead"} == {*local_ray.MODULES, "UsageStatsHead"}


@pytest.mark.parametrize(("wish", "loads_all"), [("0", False), ("1", True)])
def test_the_part_that_asks_clouds_runs_only_with_usage_data_on(
    monkeypatch: pytest.MonkeyPatch, wish: str, loads_all: bool
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(services, "start_ray_process", lambda command, kind, **settings: started.append(command))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", wish)
    before = services.start_ray_process
    with local_ray.on_this_host():
        services.start_ray_process(["python", "dashboard.py"], "dashboard", fate_share=True)
        services.start_ray_process(["raylet"], "raylet", fate_share=True)
    assert services.start_ray_process is before
    assert started[1] == ["raylet"]
    assert (started[0] == ["python", "dashboard.py"]) == loads_all
    assert not any("UsageStatsHead" in part for part in started[0])

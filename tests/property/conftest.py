"""How many examples: 500 in CI, 20,000 with ``MUSTER_LONG=1``, or ``HYPOTHESIS_PROFILE``; and the seed.

``MUSTER_SEED`` repeats a run; the seed stands in the header and under every failure.
"""

from __future__ import annotations

import os
import random
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed

SEED = int(os.environ.setdefault("MUSTER_SEED", str(random.SystemRandom().randrange(2**32))))
PROFILES = {"dev": 50, "ci": 500, "long": 20_000}
for _name, _examples in PROFILES.items():
    settings.register_profile(
        f"muster-{_name}",
        max_examples=_examples,
        stateful_step_count=40,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],
    )
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "long" if os.environ.get("MUSTER_LONG") == "1" else "ci")
settings.load_profile(f"muster-{PROFILE}" if PROFILE in PROFILES else PROFILE)
MINUTES = 300 if PROFILE == "long" else 10


def pytest_report_header() -> str:
    return f"properties: {settings().max_examples} examples, MUSTER_SEED={SEED}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if not str(item.path).startswith(here):
            continue
        item.add_marker(pytest.mark.timeout(MINUTES * 60))
        function = getattr(item, "obj", None)
        plain = getattr(function, "__func__", function)
        if getattr(plain, "is_hypothesis_test", False):
            with_seed(SEED)(plain)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    report.sections.append(("seed", f"repeat with MUSTER_SEED={SEED} HYPOTHESIS_PROFILE={PROFILE}"))
    return report

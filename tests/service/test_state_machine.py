"""Arbitrary interleavings of everything that can happen to a van, against a model of a few lines."""

import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from model.channels import SIGNALS
from model.checkpoint import load_checkpoint
from model.runtime import recompute
from service.records.vehicle_export import unpack_export
from service.settings import Settings
from tests.processes import ServiceProcess, ValkeyProcess

RUNS = int(os.environ.get("EMBERWATCH_MACHINE_RUNS", "12"))
START_MS = 1_760_000_000_000
FAR_FUTURE_MS = 4_000_000_000_000
RUNS_KEPT = 32  # docs/adr/0003
TOLERANCE = 1e-4
HTTP = {"applied": 200, "duplicate": 200, "late": 409, "conflict": 409, "invalid": 422}

Sample = dict[str, Any]

SIGNAL_VALUES = st.fixed_dictionaries(
    {"speed": st.integers(0, 30)},
    optional={
        "motor_temperature": st.integers(20, 110),
        "state_of_charge": st.integers(5, 95),
        "brake_events": st.integers(0, 3),
        "pack_temperature": st.integers(5, 50),
    },
)
GARBAGE = st.sampled_from(
    [
        {"signals": {"speed": 1e9}},
        {"signals": {"latitude": 48.0}},
        {"signals": {}},
        {"signals": {"spped": 3.0}},
        {"ts": "yesterday"},
        {"seq": -1},
        {"epoch": 0},
    ]
)
PAST_KINDS = ("again", "altered", "skipped", "backwards")
# What one sample of a request is to be; numbers pick among what was accepted before.
KINDS = st.one_of(
    st.tuples(st.just("next"), st.sampled_from([1, 1, 1, 2, 5])),
    st.tuples(st.sampled_from(PAST_KINDS), st.integers(0, 1_000)),
    st.tuples(st.just("epoch"), st.sampled_from([-1, 1])),
    st.tuples(st.just("future"), st.just(0)),
    st.tuples(st.just("garbage"), GARBAGE),
)


@dataclass
class ModelVan:
    """What the service should think of one van."""

    vehicle_id: str
    numbered: bool  # sends a seq
    epoch: int = 1
    known: bool = False  # to the service
    accepted: list[tuple[Sample, float | None]] = field(default_factory=list)  # of this session, with the risk answered
    runs: list[list[int]] = field(default_factory=list)

    @property
    def last(self) -> tuple[int, int]:
        """Last seq and ts."""
        return (self.accepted[-1][0]["seq"], self.accepted[-1][0]["ts"]) if self.accepted else (-1, START_MS)

    def find(self, sample: Sample) -> tuple[Sample, float | None] | None:
        """What was accepted under the sample's identity."""
        key = "seq" if self.numbered else "ts"
        return next((entry for entry in self.accepted if entry[0][key] == sample[key]), None)

    def verdict(self, sample: Sample) -> str:
        """As DESIGN has it."""
        seq, ts = self.last
        found = self.find(sample)
        if sample.get("epoch", self.epoch) != self.epoch:
            return "conflict"
        if found is not None:
            same = all(found[0][key] == sample[key] for key in ("ts", "signals"))
            return "duplicate" if same else "conflict"
        if self.numbered and any(first <= sample["seq"] <= last for first, last in self.runs):
            return "duplicate"  # a gap so old that it is taken for accepted
        if sample["ts"] == FAR_FUTURE_MS:
            return "invalid"
        late = (self.numbered and sample["seq"] <= seq) or (bool(self.accepted) and sample["ts"] <= ts)
        return "late" if late else "applied"

    def accept(self, sample: Sample, risk: float | None) -> None:
        """One more sample of the session."""
        seq = sample["seq"] if self.numbered else self.last[0] + 1
        self.known = True
        self.accepted.append((sample | {"seq": seq}, risk))
        if self.numbered:
            if self.runs and self.runs[-1][1] == seq - 1:
                self.runs[-1][1] = seq
            else:
                self.runs.append([seq, seq])
            if len(self.runs) > RUNS_KEPT:
                self.runs[:2] = [[self.runs[0][0], self.runs[1][1]]]


def from_the_past(new: Sample, past: Sample, kind: str) -> Sample:
    """A sample that has to do with one that was accepted."""
    if kind == "again":
        return dict(past)
    if kind == "altered":
        return past | {"signals": past["signals"] | {"speed": past["signals"]["speed"] + 1}}
    if kind == "backwards" or not past["seq"]:
        return new | {"ts": past["ts"] - 1}
    return new | {"ts": past["ts"] - 1, "seq": past["seq"] - 1}


class Workers:
    """Two workers on one store with caches that are far too small; one may be dead while the other serves."""

    def __init__(self, folder: Any) -> None:
        self.store = ValkeyProcess(folder / "store").start()
        often: dict[str, Any] = {"snapshot_every": 5} if "snapshot_every" in Settings.model_fields else {}
        self.processes = [
            ServiceProcess(folder, store=self.store.url, name=f"worker-{i}", slots=3, max_batch_size=1, max_wait_ms=0, **often)
            for i in range(2)
        ]  # fmt: skip
        self.clients = [httpx.Client(base_url=process.url, timeout=30.0) for process in self.processes]
        for process in self.processes:
            process.launch()
        for process in self.processes:
            process.wait_until_ready()
        self.names = itertools.count()
        self.starting: set[int] = set()
        paths = self.clients[0].get("/openapi.json").json()["paths"]
        self.can_delete = "delete" in paths["/v1/vehicles/{vehicle_id}"]

    def client(self, wanted: int) -> httpx.Client:
        """The wanted worker if it is up, else the other."""
        return self.clients[wanted if self.up(wanted) else 1 - wanted]

    def up(self, number: int) -> bool:
        """Whether it serves."""
        if number in self.starting:
            try:
                if self.clients[number].get("/readyz").status_code == 200:
                    self.starting.discard(number)
            except httpx.TransportError:
                pass
        return number not in self.starting

    def kill(self, number: int) -> None:
        """SIGKILL, and start it again without waiting, unless the other is still on its way up."""
        if self.up(0) and self.up(1):
            self.processes[number].kill()
            self.processes[number].launch()
            self.starting.add(number)

    def stop(self) -> None:
        """End everything."""
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.kill()
        self.store.stop_if_running()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Shared by all runs; every run has vans of its own."""
    made = Workers(tmp_path_factory.mktemp("machine"))
    yield made
    made.stop()


class VanLife(RuleBasedStateMachine):
    """What may happen to three vans, the last of which sends no numbers."""

    workers: Workers

    def __init__(self) -> None:
        super().__init__()
        name = f"life-{next(self.workers.names)}"
        self.vans = [ModelVan(f"{name}-{i}", numbered=i < 2) for i in range(3)]
        self.killed = False

    def sample(self, van: ModelVan, kind: str, choice: Any, signals: dict[str, int]) -> Sample:
        """A sample of the kind wanted, or the next one where the van has no past to choose from."""
        seq, ts = van.last
        made: Sample = {"ts": ts + 5_000, "seq": seq + 1, "signals": signals}
        if kind in PAST_KINDS:
            if van.accepted:
                made = from_the_past(made, van.accepted[choice % len(van.accepted)][0], kind)
        elif kind == "next":
            made |= {"ts": ts + 5_000 * choice, "seq": seq + choice}
        elif kind == "epoch":
            made |= {"epoch": van.epoch + choice} if van.epoch + choice else {}
        elif kind == "future":
            made |= {"ts": FAR_FUTURE_MS}
        else:
            made |= choice
        if kind not in {"epoch", "garbage"} and made["ts"] % 3 == 0:
            made |= {"epoch": van.epoch}
        if not van.numbered and not (kind == "garbage" and "seq" in choice):
            del made["seq"]
        return made

    def check_item(self, van: ModelVan, sample: Sample, wanted: str, item: dict[str, Any]) -> None:
        """The answer to one sample is the model's, and the model moves on."""
        assert item["status"] == wanted, (sample, item)
        if wanted == "applied":
            van.accept(sample, item["risk"])
        if wanted == "duplicate":
            found = van.find(sample)
            if found is not None:
                assert item["seq"] == found[0]["seq"], (sample, item)
                assert item["risk"] == pytest.approx(found[1], rel=1e-6), (sample, item)
        if wanted == "applied":
            assert item["seq"] == van.last[0], (sample, item)

    @rule(who=st.integers(0, 2), via=st.integers(0, 1), kind=KINDS, signals=SIGNAL_VALUES)
    def send_one(self, who: int, via: int, kind: tuple[str, Any], signals: dict[str, int]) -> None:
        """One sample: its verdict is the status of the response."""
        van = self.vans[who]
        sample = self.sample(van, *kind, signals)
        wanted = "invalid" if kind[0] == "garbage" else van.verdict(sample)
        answer = self.workers.client(via).post(f"/v1/vehicles/{van.vehicle_id}/telemetry", json=sample)
        assert answer.status_code == HTTP[wanted], (sample, answer.text)
        data = answer.json()
        self.check_item(van, sample, wanted, data | {"status": data.get("verdict", data["status"])})

    @rule(
        who=st.integers(0, 2),
        via=st.integers(0, 1),
        kinds=st.lists(st.tuples(KINDS, SIGNAL_VALUES), min_size=1, max_size=8),
    )
    def send_array(self, who: int, via: int, kinds: list[tuple[tuple[str, Any], dict[str, int]]]) -> None:
        """Many at once, each judged after those before it."""
        van = self.vans[who]
        imagined = ModelVan(
            van.vehicle_id, van.numbered, van.epoch, van.known, list(van.accepted), [*map(list, van.runs)]
        )
        samples, wanted = [], []
        for kind, signals in kinds:
            samples.append(self.sample(imagined, *kind, signals))
            wanted.append("invalid" if kind[0] == "garbage" else imagined.verdict(samples[-1]))
            if wanted[-1] == "applied":
                imagined.accept(samples[-1], None)
        answer = self.workers.client(via).post(f"/v1/vehicles/{van.vehicle_id}/telemetry", json=samples)
        assert answer.status_code == (200 if {"applied", "duplicate"} >= set(wanted) else 207), answer.text
        summary = answer.json()
        assert [item["i"] for item in summary["items"]] == list(range(len(samples)))
        for sample, verdict, item in zip(samples, wanted, summary["items"], strict=True):
            self.check_item(van, sample, verdict, item)
        counts = {"applied": wanted.count("applied"), "duplicate": wanted.count("duplicate")}
        assert counts | {"rejected": len(wanted) - sum(counts.values())} == {
            k: summary[k] for k in (*counts, "rejected")
        }

    @rule(who=st.integers(0, 2), via=st.integers(0, 1))
    def reset(self, who: int, via: int) -> None:
        """The next session, with nothing in it; the first of a van is epoch 1."""
        van = self.vans[who]
        answer = self.workers.client(via).post(f"/v1/vehicles/{van.vehicle_id}/sessions")
        epoch = van.epoch + 1 if van.known else 1
        assert (answer.status_code, answer.json()) == (201, {"vehicle_id": van.vehicle_id, "epoch": epoch})
        self.vans[who] = ModelVan(van.vehicle_id, van.numbered, epoch, known=True)

    @rule(who=st.integers(0, 2), via=st.integers(0, 1))
    @precondition(lambda self: self.workers.can_delete)
    def delete(self, who: int, via: int) -> None:
        """Erased: as if it had never been; what is not there is erased already."""
        van = self.vans[who]
        answer = self.workers.client(via).delete(f"/v1/vehicles/{van.vehicle_id}")
        assert answer.status_code == 204, answer.text
        self.vans[who] = ModelVan(van.vehicle_id, van.numbered)

    @rule(number=st.integers(0, 1))
    @precondition(lambda self: not self.killed)
    def kill(self, number: int) -> None:
        """`kill -9` a worker, once in a run; the other serves on."""
        self.killed = True
        self.workers.kill(number)

    @rule(who=st.integers(0, 2), via=st.integers(0, 1))
    def look(self, who: int, via: int) -> None:
        """The van's record is the model's."""
        van = self.vans[who]
        answer = self.workers.client(via).get(f"/v1/vehicles/{van.vehicle_id}")
        if not van.known:
            assert answer.status_code == 404
            return
        shown = answer.json()
        seq, ts = van.last
        wanted = {"epoch": van.epoch, "samples": len(van.accepted), "seq": seq, "last_ts_ms": ts, "phase": "inactive"}
        if not van.accepted:
            wanted |= {"seq": None, "last_ts_ms": None}
        assert {key: shown[key] for key in wanted} == wanted

    def teardown(self) -> None:
        """Every van's state is the offline scan over exactly what was applied."""
        if sys.exc_info()[1] is not None:
            return  # a step has failed already, and the model is behind
        for who, van in enumerate(self.vans):
            self.look(who, 0)
            state = self.workers.client(1).get(f"/v1/vehicles/{van.vehicle_id}/state")
            if not van.accepted:
                assert state.status_code == 404
                continue
            held = unpack_export(state.content).snapshot()
            assert (held.epoch, held.seq) == (van.epoch, van.last[0])
            ts_ms = np.array([sample["ts"] for sample, _ in van.accepted], np.int64)
            signals = np.array([[s["signals"].get(name, np.nan) for name in SIGNALS] for s, _ in van.accepted])
            truth = recompute(load_checkpoint(), ts_ms, signals)
            assert np.linalg.norm(held.ssm - truth.ssm) < TOLERANCE * np.linalg.norm(truth.ssm)
            assert np.linalg.norm(held.conv - truth.conv) < TOLERANCE * np.linalg.norm(truth.conv)
            answered = [risk for _, risk in van.accepted]
            np.testing.assert_allclose(np.array(answered, np.float64), truth.risk, atol=TOLERANCE)


def test_no_interleaving_breaks_the_rules(workers: Workers) -> None:
    """Samples, retries, other content, late ones, wrong epochs, resets, deletes and crashes, in any order, by two workers."""
    VanLife.workers = workers
    bounded = settings(
        max_examples=RUNS,
        stateful_step_count=30,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(VanLife, settings=bounded)

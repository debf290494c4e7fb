"""Steps that wait: for events, signals and functions; what ends them, and what a crash leaves of them."""

from typing import Any

import msgspec
import pytest

from steplog.engine import records
from steplog.engine.effects import Answer, Dispatch, Recorded, Resume, RunEnded
from steplog.engine.functions import DEFAULT_ENV, CronTrigger, EngineConfig, EventTrigger, FunctionSpec
from steplog.engine.messages import OpReported, SignalSent
from steplog.engine.operations import EventOut, InvokeFunction, SendSignal, WaitForEvent, WaitForSignal

from .partition import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    SPILLING,
    Partition,
    all_of,
    ended,
    function,
    parked,
    raised,
    ran,
    report,
    returned,
    sent,
    slept,
    the,
)

ORDER = function("order")
BY_ORDER = "async.data.order == event.data.id"


def waits(
    at: Dispatch, name: str, *events: str, timeout_ms: int = DAY, if_exp: str | None = None, all_of: bool = False
) -> OpReported:
    return report(at, name, WaitForEvent(events=events, timeout_ms=timeout_ms, if_exp=if_exp, all_of=all_of))


def listens(at: Dispatch, name: str, signal: str, *, timeout_ms: int = DAY, replaces: bool = False) -> OpReported:
    return report(at, name, WaitForSignal(signal=signal, timeout_ms=timeout_ms, replaces=replaces))


def invokes(at: Dispatch, name: str, callee: str, data: bytes = b"{}", *, timeout_ms: int = DAY) -> OpReported:
    return report(at, name, InvokeFunction(function=callee, data=data, timeout_ms=timeout_ms))


def order(partition: Partition, number: str) -> Dispatch:
    return the(Dispatch, partition.post(partition.event("order", data=msgspec.json.encode({"id": number}))))


def paid(partition: Partition, number: str, **more: Any) -> list[Any]:
    return partition.post(partition.event("paid", data=msgspec.json.encode({"order": number, **more})))


def value(recorded: Recorded) -> Any:
    assert recorded.data is not None
    return msgspec.json.decode(recorded.data)


@pytest.mark.spec("STEP-08", "STEP-12", "EVT-12")
def test_an_event_resumes_every_run_whose_wait_it_fits() -> None:
    partition = Partition(ORDER)
    first, second, third = (order(partition, number) for number in ("o1", "o2", "o1"))
    for run in (first, second, third):
        partition.post(waits(run, "paid", "paid", if_exp=BY_ORDER))
    resumed = all_of(Resume, paid(partition, "o1", total=5))
    assert {r.run for r in resumed} == {first.run, third.run}
    got = value(resumed[0].recorded)
    assert (got["name"], got["data"], got["ts"]) == ("paid", {"order": "o1", "total": 5}, NOON)
    assert set(got) == {"id", "name", "data", "ts"}
    assert all_of(Resume, paid(partition, "o1")) == []
    assert the(Resume, paid(partition, "o2")).run == second.run
    told = [msgspec.to_builtins(routed) for routed in partition.of(records.EventRouted) if routed.name == "paid"]
    runs = [{ref["run"]: ref["step"] for ref in routed.get("resumed", ())} for routed in told]
    assert runs == [{first.run_id: "paid", third.run_id: "paid"}, {}, {second.run_id: "paid"}]


@pytest.mark.spec("STEP-08", "STEP-10")
def test_without_a_condition_the_next_event_of_the_name_ends_the_wait() -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    partition.post(waits(run, "any", "paid"))
    assert value(the(Resume, paid(partition, "o7")).recorded)["data"] == {"order": "o7"}


@pytest.mark.spec("STEP-11")
def test_only_what_comes_after_the_wait_counts() -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    paid(partition, "o1")
    assert all_of(Resume, partition.post(waits(run, "paid", "paid", if_exp=BY_ORDER))) == []


@pytest.mark.spec("STEP-08")
def test_a_wait_whose_time_is_up_gives_nothing_and_leaves_nothing() -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    partition.post(waits(run, "paid", "paid", if_exp=BY_ORDER, timeout_ms=HOUR))
    assert partition.advance(HOUR - 1) == []
    assert value(the(Resume, partition.advance(1)).recorded) is None
    assert all_of(Resume, paid(partition, "o1")) == []
    partition.post(returned(run))
    assert [key for key in partition.stored() if not key.startswith("path")] == []


@pytest.mark.spec("EVT-06")
def test_an_event_of_the_future_ends_a_wait_at_once() -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    partition.post(waits(run, "paid", "paid"))
    assert the(Resume, partition.send("paid", ts_ms=NOON + DAY)).run == run.run


def test_one_of_several_names_or_each_of_them() -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    partition.post(waits(run, "either", "paid", "voided"), waits(run, "both", "packed", "paid", all_of=True))
    either = the(Resume, paid(partition, "o1"))
    assert value(either.recorded)["name"] == "paid"
    assert all_of(Resume, partition.send("voided")) == []
    both = the(Resume, partition.send("packed"))
    assert [event["name"] for event in value(both.recorded)] == ["packed", "paid"]
    told = [routed.resumed for routed in partition.of(records.EventRouted) if routed.resumed is not msgspec.UNSET]
    assert [ref.step for refs in told for ref in refs] == ["either", "both"]
    partition.post(returned(run))
    assert [key for key in partition.stored() if not key.startswith("path")] == []


def test_a_run_that_waits_is_woken_after_a_crash() -> None:
    partition = Partition(ORDER, limits=SPILLING)
    runs = [order(partition, f"o{number}") for number in range(5)]
    for run in runs:
        partition.post(waits(run, "paid", "paid", if_exp=BY_ORDER), parked(run, delivered=0))
    partition.post(waits(order(partition, "o9"), "both", "paid", "packed", all_of=True))
    paid(partition, "o8")
    partition.crash()
    woken = the(Dispatch, paid(partition, "o3"))
    assert woken.run == runs[3].run
    assert value(woken.recorded[0])["data"] == {"order": "o3"}
    assert the(Resume, partition.send("packed")).generation == 2


@pytest.mark.spec("EXPR-03")
def test_a_condition_that_cannot_be_read_fails_the_run() -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    effect = the(RunEnded, partition.post(waits(run, "paid", "paid", if_exp="async.data ((")))
    assert effect.error is not None
    assert (effect.status, effect.error.name) == ("failed", "InvalidExpression")
    assert partition.stored() == []


def test_a_run_that_ends_waits_no_more() -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    partition.post(waits(run, "paid", "paid"), listens(run, "signal", "go"), slept(run, "nap", NOON + HOUR))
    partition.post(returned(run))
    assert [key for key in partition.stored() if not key.startswith("path")] == []
    assert partition.post(SignalSent(env=DEFAULT_ENV, signal="go", data=b"1", ticket=1)) == [Answer(1, None)]


def test_what_is_waited_for_is_in_the_journal() -> None:
    partition = Partition(ORDER, function("pack"))
    run = order(partition, "o1")
    partition.post(
        waits(run, "paid", "paid", if_exp=BY_ORDER), listens(run, "go", "go/o1"), invokes(run, "x", "a-pack")
    )
    event, signal, call = partition.of(records.StepWaiting)
    assert (event.op, event.events, event.expression, event.until) == ("WaitForEvent", ("paid",), BY_ORDER, NOON + DAY)
    assert (signal.op, signal.signal) == ("WaitForSignal", "go/o1")
    assert (call.op, call.function, call.child) == (
        "InvokeFunction",
        "a-pack",
        partition.of(records.RunScheduled)[-1].run,
    )


# --- signals


def test_a_signal_resumes_the_step_that_waits_for_it() -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    partition.post(listens(run, "manager", "approve/o1"))
    answer, resumed = partition.post(SignalSent(env=DEFAULT_ENV, signal="approve/o1", data=b'{"by":"ann"}', ticket=7))
    if isinstance(answer, Resume):
        answer, resumed = resumed, answer
    assert answer == Answer(7, run.run_id)
    assert isinstance(resumed, Resume)
    assert value(resumed.recorded) == {"signal": "approve/o1", "data": {"by": "ann"}}
    assert partition.post(SignalSent(env=DEFAULT_ENV, signal="approve/o1", data=b"1", ticket=8)) == [Answer(8, None)]


def test_a_run_that_ends_because_it_hears_itself_records_nothing_after_that() -> None:
    partition = Partition(ORDER, config=EngineConfig(run_state_bytes=1_000))
    run = order(partition, "1")
    partition.post(listens(run, "wait", "go"))
    assert the(RunEnded, partition.post(report(run, "tell", SendSignal(signal="go", data=b'"%s"' % (b"x" * 900)))))
    heard, failed = partition.of(records.StepCompleted)[-1], partition.of(records.RunFailed)[0]
    assert (heard.step, failed.seq) == ("wait", heard.seq + 1)
    assert partition.stored() == []


def test_a_run_that_ends_because_it_replaces_its_own_wait_records_nothing_after_that() -> None:
    partition = Partition(ORDER, config=EngineConfig(run_state_bytes=1))
    run = order(partition, "1")
    partition.post(listens(run, "first", "go"))
    assert the(RunEnded, partition.post(listens(run, "second", "go", replaces=True)))
    replaced, failed = partition.of(records.StepFailed)[-1], partition.of(records.RunFailed)[0]
    assert (replaced.step, failed.seq) == ("first", replaced.seq + 1)
    assert max(waiting.seq for waiting in partition.of(records.StepWaiting)) < replaced.seq
    assert partition.stored() == []


def test_a_signal_whose_time_is_up_can_be_waited_for_again() -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    partition.post(listens(run, "first", "go", timeout_ms=MINUTE))
    assert value(the(Resume, partition.advance(MINUTE)).recorded) is None
    assert partition.post(listens(run, "second", "go")) == []


def test_one_step_waits_for_a_signal() -> None:
    partition = Partition(ORDER)
    first, second, third = (order(partition, number) for number in ("o1", "o2", "o3"))
    partition.post(listens(first, "go", "go"))
    refused = the(Resume, partition.post(listens(second, "go", "go")))
    assert refused.recorded.error is not None
    assert refused.run == second.run
    taken = the(Resume, partition.post(listens(third, "go", "go", replaces=True)))
    assert taken.run == first.run
    assert taken.recorded.error is not None
    assert (
        the(Answer, partition.post(SignalSent(env=DEFAULT_ENV, signal="go", data=b"1", ticket=1))).run_id
        == third.run_id
    )


def test_a_step_sends_a_signal_to_another_run() -> None:
    partition = Partition(ORDER)
    first, second = (order(partition, number) for number in ("o1", "o2"))
    partition.post(listens(first, "go", "go"))
    to_first, to_second = all_of(Resume, partition.post(report(second, "tell", SendSignal(signal="go", data=b"5"))))
    assert (to_first.run, value(to_first.recorded)) == (first.run, {"signal": "go", "data": 5})
    assert (to_second.run, value(to_second.recorded)) == (second.run, first.run_id)
    again = the(Resume, partition.post(report(second, "tell-2", SendSignal(signal="go", data=b"5"))))
    assert value(again.recorded) is None


# --- functions


@pytest.mark.spec("STEP-13", "SYS-05")
def test_an_invoked_function_answers_the_step() -> None:
    partition = Partition(ORDER, FunctionSpec(id="a-pack", app="a"))
    run = order(partition, "o1")
    child = the(Dispatch, partition.post(invokes(run, "pack", "a-pack", b'{"boxes":2}')))
    event = msgspec.json.decode(child.events[0])
    assert (event["name"], event["data"]) == ("inngest/function.invoked", {"boxes": 2})
    (scheduled,) = [r for r in partition.of(records.RunScheduled) if r.function == "a-pack"]
    assert scheduled.parent == run.run_id
    answered = the(Resume, partition.post(returned(child, b'"done"')))
    assert (answered.run, value(answered.recorded)) == (run.run, "done")
    assert ended(partition.post(returned(run))) == "completed"
    assert partition.stored() == []


@pytest.mark.spec("STEP-15")
def test_a_failed_callee_and_an_unknown_one_fail_the_step() -> None:
    partition = Partition(ORDER, FunctionSpec(id="a-pack", app="a"))
    run = order(partition, "o1")
    child = the(Dispatch, partition.post(invokes(run, "pack", "a-pack")))
    failed = the(Resume, partition.post(raised(child, final=True)))
    assert failed.run == run.run
    assert failed.recorded.error is not None
    unknown = the(Resume, partition.post(invokes(run, "other", "a-nobody")))
    assert unknown.recorded.error is not None
    assert unknown.recorded.error.message == "could not find function with ID: a-nobody"


@pytest.mark.spec("STEP-15")
def test_a_callee_goes_on_when_the_caller_has_given_up() -> None:
    partition = Partition(ORDER, FunctionSpec(id="a-pack", app="a"))
    run = order(partition, "o1")
    child = the(Dispatch, partition.post(invokes(run, "pack", "a-pack", timeout_ms=MINUTE)))
    late = the(Resume, partition.advance(MINUTE))
    assert late.recorded.error is not None
    assert late.recorded.error.name == "InngestInvokeTimeoutError"
    assert all_of(Resume, partition.post(returned(child))) == []


def test_a_caller_that_was_parked_is_woken_by_the_answer_after_a_crash() -> None:
    partition = Partition(ORDER, FunctionSpec(id="a-pack", app="a"), limits=SPILLING)
    run = order(partition, "o1")
    (child,) = all_of(Dispatch, partition.post(invokes(run, "pack", "a-pack"), parked(run, delivered=0)))
    again = the(Dispatch, partition.crash())
    assert again.run == child.run
    woken = the(Dispatch, partition.post(returned(again, b"7")))
    assert (woken.run, value(woken.recorded[0])) == (run.run, 7)


# --- what starts functions


@pytest.mark.spec("FN-04", "EXPR-01")
def test_a_condition_keeps_events_from_a_function() -> None:
    large = FunctionSpec(id="a-large", app="a", triggers=(EventTrigger("order", "event.data.total > 100"),))
    partition = Partition(large)
    assert all_of(Dispatch, partition.post(partition.event("order", data=b'{"total":100}'))) == []
    assert the(Dispatch, partition.post(partition.event("order", data=b'{"total":101}'))).function == "a-large"


def test_a_condition_that_fails_is_false_and_told_once_an_hour() -> None:
    condition = "event.data.total + 1 > 100"
    partition = Partition(FunctionSpec(id="a-large", app="a", triggers=(EventTrigger("order", condition),)))
    for _ in range(3):
        assert all_of(Dispatch, partition.post(partition.event("order", data=b'{"total":"x"}'))) == []
        partition.advance(25 * MINUTE)
    assert the(Dispatch, partition.post(partition.event("order", data=b'{"total":100}'))).function == "a-large"
    partition.post(partition.event("order", data=b"{}"))
    told = [routed.failed for routed in partition.of(records.EventRouted)]
    assert [bool(failed) for failed in told] == [True, False, False, False, True]
    (failure,) = told[0] or ()
    assert (failure.function, failure.expression) == ("a-large", condition)
    assert failure.error


@pytest.mark.spec("FN-08")
@pytest.mark.parametrize(
    ("pattern", "name", "starts"),
    [
        ("app/*", "app/user.created", True),
        ("app/*", "app/blog.post.published", True),
        ("app/*", "application/user", False),
        ("app/user.*", "app/user.created", True),
        ("app/user.*", "app/user.name.changed", True),
        ("app/user.*", "app/users.created", False),
        ("app/blog.post.*", "app/blog.post.published", True),
    ],
)
def test_wildcards(pattern: str, name: str, starts: bool) -> None:
    partition = Partition(FunctionSpec(id="a-f", app="a", triggers=(EventTrigger(pattern),)))
    assert bool(all_of(Dispatch, partition.send(name))) is starts


@pytest.mark.spec("EVT-13", "FN-14")
def test_several_triggers_that_fit_start_a_function_once() -> None:
    spec = FunctionSpec(
        id="a-f", app="a",
        triggers=(EventTrigger("app/*"), EventTrigger("app/x", "event.data.n == 1"), EventTrigger("app/x")),
    )  # fmt: skip
    partition = Partition(spec, function("other", "app/x"))
    assert sorted(d.function for d in all_of(Dispatch, partition.send("app/x"))) == ["a-f", "a-other"]


def test_a_function_without_a_trigger_is_started_by_no_event() -> None:
    partition = Partition(
        FunctionSpec(id="a-f", app="a"), FunctionSpec(id="a-c", app="a", triggers=(CronTrigger("0 0 * * *"),))
    )
    assert all_of(Dispatch, partition.send("anything")) == []


# --- what is told of runs that end


@pytest.mark.spec("ERR-13", "ERR-14", "ERR-17", "SYS-02", "PY-21")
def test_a_failure_is_told_and_handled_once() -> None:
    handler = FunctionSpec(id="a-order-failure", app="a", retries=0, failure_of="a-order")
    partition = Partition(ORDER, handler, function("pager", "inngest/function.failed"), function("other"))
    run = order(partition, "o1")
    begun = all_of(Dispatch, partition.post(raised(run, final=True)))
    assert sorted(d.function for d in begun) == ["a-order-failure", "a-pager"]
    event = msgspec.json.decode(begun[0].events[0])
    data = event["data"]
    assert (event["name"], event["id"]) == ("inngest/function.failed", run.run_id)
    assert (data["function_id"], data["run_id"]) == ("a-order", run.run_id)
    assert data["event"]["data"] == {"id": "o1"}
    assert data["events"] == [data["event"]]
    assert set(data["error"]) >= {"error", "name", "message"}
    other = the(Dispatch, partition.send("other"))
    assert [d.function for d in all_of(Dispatch, partition.post(raised(other, final=True)))] == ["a-pager"]


@pytest.mark.spec("ERR-19")
def test_a_failing_failure_handler_triggers_no_other() -> None:
    partition = Partition(ORDER, function("pager", "inngest/function.failed"))
    pager = the(Dispatch, partition.post(raised(order(partition, "o1"), final=True)))
    assert all_of(Dispatch, partition.post(raised(pager, final=True))) == []


@pytest.mark.spec("EVT-18", "SYS-04")
def test_the_end_of_a_run_is_told_where_somebody_asks() -> None:
    partition = Partition(ORDER)
    partition.post(returned(order(partition, "o1")))
    assert [e["name"] for _, turn in partition.log.events for e in map(msgspec.json.decode, turn)] == ["order"]
    asked = Partition(ORDER, function("ends", "inngest/function.finished"))
    watcher = the(Dispatch, asked.post(returned(order(asked, "o1"), b'{"a":1}')))
    data = msgspec.json.decode(watcher.events[0])["data"]
    assert (data["function_id"], data["result"], data["event"]["name"]) == ("a-order", {"a": 1}, "order")
    assert all_of(Dispatch, asked.post(returned(watcher))) == []


def test_a_step_sends_what_another_run_waits_for() -> None:
    partition = Partition(ORDER, function("pay"))
    run = order(partition, "o1")
    partition.post(waits(run, "paid", "paid"))
    payer = the(Dispatch, partition.send("pay"))
    assert {r.run for r in all_of(Resume, partition.post(sent(payer, "tell", EventOut(name="paid", data=b"{}"))))} == {
        run.run,
        payer.run,
    }
    partition.post(ran(run, "pack"))


# --- faults


@pytest.mark.spec("FAULT-G2")
@pytest.mark.parametrize("is_event_first", [True, False])
def test_an_event_and_the_end_of_the_time_give_one_outcome(is_event_first: bool) -> None:
    partition = Partition(ORDER)
    run = order(partition, "o1")
    partition.post(waits(run, "paid", "paid", timeout_ms=MINUTE))
    partition.now_ms += MINUTE - is_event_first  # at its very end both are due in one turn
    resumed = all_of(Resume, paid(partition, "o1"))
    assert len(resumed) == 1
    assert (value(resumed[0].recorded) is not None) is is_event_first
    assert all_of(Resume, partition.advance(MINUTE)) == []
    assert len(partition.of(records.StepCompleted)) == 1


@pytest.mark.spec("FAULT-G3")
@pytest.mark.parametrize("is_parked", [True, False])
def test_a_crash_after_the_match_and_before_anybody_is_told(is_parked: bool) -> None:
    partition = Partition(ORDER, limits=SPILLING)
    run = order(partition, "o1")
    partition.post(waits(run, "paid", "paid", if_exp=BY_ORDER), *([parked(run, delivered=0)] if is_parked else []))
    partition.write(partition.decide(partition.event("paid", data=b'{"order":"o1"}')))  # durable, nothing released
    again = the(Dispatch, partition.crash())
    assert (again.run, value(again.recorded[0])["data"]) == (run.run, {"order": "o1"})


@pytest.mark.spec("FAULT-G8")
def test_a_parent_that_is_killed_while_its_child_ends_gets_the_result_once() -> None:
    partition = Partition(ORDER, FunctionSpec(id="a-pack", app="a"), limits=SPILLING)
    run = order(partition, "o1")
    child = the(Dispatch, partition.post(invokes(run, "pack", "a-pack")))
    partition.write(partition.decide(returned(child, b"7")))  # durable, and everybody dies
    again = the(Dispatch, partition.crash())
    assert (again.run, value(again.recorded[0])) == (run.run, 7)
    partition.post(returned(child, b"8"))
    assert all_of(Dispatch, partition.crash()) == []  # lost for the second time: it waits a little
    assert the(Dispatch, partition.advance(MINUTE)).recorded == again.recorded
    assert len(partition.of(records.StepCompleted)) == 1

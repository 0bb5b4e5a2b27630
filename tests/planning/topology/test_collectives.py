"""What devices send each other, read from the text of a compiled program."""

import pytest

from noisy_student_jax.planning.topology.collectives import Collective, collectives

# As XLA writes it for CPU, GPU and TPU, shortened.
PROGRAM = """
HloModule jit_step, is_scheduled=true, entry_computation_layout={()->f32[]}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%condition (state: (s32[], f32[16])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  %at = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %lt = pred[] compare(%at, %bound), direction=LT
}

%body (state: (s32[], f32[16])) -> (s32[], f32[16]) {
  %m = (f32[16]{0:T(128)S(1)}, bf16[8]{0}) all-reduce(%a, %b), to_apply=%add
  ROOT %next = (s32[], f32[16]) tuple(%at, %m)
}

%all-reduce-scatter (input: f32[4,32]) -> f32[4,8] {
  %whole = f32[4,32]{1,0} all-reduce(%input), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %own = f32[4,8]{1,0} dynamic-slice(%whole, %i, %j), dynamic_slice_sizes={4,8}
}

%wrapped (input: bf16[2,4]) -> bf16[8,4] {
  ROOT %all = bf16[8,4]{1,0} all-gather(%input), dimensions={0}
}

%piece.1 (input: f32[4]) -> f32[4] {
  ROOT %swapped = f32[4]{0} all-to-all(%input), channel_id=7, dimensions={0}
}

%piece.2 (input: f32[4]) -> f32[4] {
  ROOT %swapped = f32[4]{0} all-to-all(%input), channel_id=7, dimensions={0}
}

ENTRY %main (p: f32[4]) -> f32[] {
  %g = (f32[1,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%p), replica_groups=[1,8]<=[8]
  %h = f32[8,4]{1,0} all-gather-done(%g)
  %async = (bf16[2,4], bf16[8,4]) async-start(%q), calls=%wrapped
  %scatter = f32[4,8]{1,0} fusion(%r), kind=kCustom, calls=%all-reduce-scatter
  %own = f32[10]{0} reduce-scatter(%s), replica_groups=[2,4]<=[8], to_apply=%add
  %mesh = u8[3]{0} reduce-scatter(%s), replica_groups=mesh['a'=4,'b'=2] {'b'}, to_apply=%add
  %loop = (s32[], f32[16]) while(%start), condition=%condition, body=%body
  %known = (s32[], f32[16]) while(%start), condition=%unknown, body=%body, backend_config={"known_trip_count":{"n":"2"}}
  %sliced = f32[4]{0} fusion(%u), kind=kCustom, calls=%piece.1
  %rest = f32[4]{0} fusion(%u), kind=kCustom, calls=%piece.2
  %move = (f32[6]{0}, f32[6]{0}, u32[], u32[]) collective-permute-start(%t)
  ROOT %named = f32[] get-tuple-element(%all-reduce.3), index=0
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def told():
    return {one.kind: one for one in collectives(PROGRAM)}


def test_a_loop_counts_as_often_as_it_turns(told):
    # Five times and twice; of float32 [16] and bfloat16 [8].
    assert told["all-reduce"] == Collective("all-reduce", 7, 7 * (16 * 4 + 8 * 2))


def test_of_what_is_gathered_the_whole_counts(told):
    # One that starts and ends apart, and one wrapped in a computation of its own.
    assert told["all-gather"] == Collective("all-gather", 2, 8 * 4 * 4 + 8 * 4 * 2)


def test_of_what_is_scattered_the_whole_counts(told):
    scattered = 4 * 32 * 4 + 4 * 10 * 4 + 2 * 3
    assert told["reduce-scatter"] == Collective("reduce-scatter", 3, scattered)


def test_what_is_sent_on_counts_once(told):
    assert told["collective-permute"] == Collective("collective-permute", 1, 24)


def test_one_that_is_done_in_pieces_counts_once(told):
    assert told["all-to-all"] == Collective("all-to-all", 1, 16)


def test_the_most_bytes_are_told_first():
    sizes = [one.bytes for one in collectives(PROGRAM)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 5


def test_a_program_of_one_device_has_none():
    assert (
        collectives("ENTRY %main (p: f32[4]) -> f32[4] {\n  ROOT %p = f32[4]\n}") == []
    )


def test_a_token_takes_no_bytes():
    text = """
ENTRY %main (a: f32[4]) -> f32[4] {
  %sum = (f32[4]{0}, token[]) all-reduce(%a, %after), to_apply=%add
}
"""
    assert collectives(text) == [Collective("all-reduce", 1, 16)]

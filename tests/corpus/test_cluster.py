"""What an actor of each pool takes of a machine. Jobs themselves run in test_corpus.py."""

from __future__ import annotations

import socket

import pytest

from vzvideo.corpus.cluster import Pool, RayError, check_listens, plan_actors
from vzvideo.corpus.stages import Answer, Decode, Encode, WriteTokens

DECODE = Pool(Decode, (), cpus=1.0)
ENCODE = Pool(Encode, (), cpus=1.0, gpus=0.2, memory=1e9)
ANSWER = Pool(Answer, (), cpus=1.0, gpus=0.8, memory=1e9)
KEEP = Pool(WriteTokens, (), cpus=0.05)


@pytest.mark.parametrize("gpus", [0, 1, 8])
@pytest.mark.parametrize(
    "pools",
    [[DECODE, ENCODE, ANSWER], [DECODE, ENCODE, KEEP], [ANSWER]],
    ids=["ask", "index", "tokens"],
)
def test_one_core_has_room_for_the_first_actor_of_every_pool(pools: list[Pool], gpus: int) -> None:
    found = plan_actors(pools, 999, 1.0, gpus, 8e9)
    assert sum(cpus for cpus, _, _ in found) <= 1.0 + 1e-9
    assert all(cpus > 0 and most >= 1 for cpus, _, most in found)


def test_pools_that_share_the_cores_may_have_an_actor_a_core() -> None:
    found = plan_actors([DECODE, ENCODE, ANSWER], 999, 16.0, 0, 64e9)
    assert [most for _, _, most in found] == [16, 16, 16]
    assert sum(cpus * most for cpus, _, most in found) <= 16.0 + 1e-9  # all of them have room
    assert [gpu for _, gpu, _ in found] == [0, 0, 0]


@pytest.mark.parametrize(("memory", "most"), [(7e9, 3), (1e9, 1), (100e9, 8)])
def test_where_memory_is_short_no_pool_may_take_it_all(memory: float, most: int) -> None:
    found = plan_actors([DECODE, ENCODE, ANSWER], 999, 8.0, 0, memory)
    assert [each for _, _, each in found] == [most] * 3


@pytest.mark.parametrize(
    ("videos", "most"), [(1, [1, 1, 1]), (7, [3, 1, 1]), (20, [10, 2, 2]), (500, [16, 16, 16])]
)
def test_models_are_loaded_again_where_it_pays(videos: int, most: list[int]) -> None:
    found = plan_actors([DECODE, ENCODE, ANSWER], videos, 16.0, 0, 64e9)
    assert [each for _, _, each in found] == most
    on_gpus = plan_actors([DECODE, ENCODE, ANSWER], videos, 16.0, 16, 64e9)
    assert [each for _, _, each in on_gpus[1:]] == most[1:]


def test_beside_a_gpu_decoding_grows_with_the_cluster() -> None:
    decode, encode, answer = plan_actors([DECODE, ENCODE, ANSWER], 999, 16.0, 2, 64e9)
    assert (encode[1:], answer[1:]) == ((0.2, 2), (0.8, 2))
    assert decode[1] == 0
    assert decode[2] > 16


def test_a_small_pool_takes_no_more_than_it_wants() -> None:
    assert plan_actors([DECODE, ENCODE, KEEP], 999, 4.0, 0, 8e9)[2][0] == 0.05
    assert plan_actors([ANSWER], 999, 4.0, 0, 8e9)[0][0] == 1.0


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_listens(address, said.append)
        check_listens(f"ray://{address}", said.append)
    assert [address in line for line in said] == [True, True]
    for dead in (address, f"ray://{address}", "127.0.0.1:99999"):
        with pytest.raises(RayError, match=f"RAY_ADDRESS={dead}: no Ray cluster answers there"):
            check_listens(dead, said.append)
    said.clear()
    for word in ("", "auto", "local"):
        check_listens(word, said.append)
    assert not said

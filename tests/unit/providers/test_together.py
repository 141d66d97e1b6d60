import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from clouddeploy_providers.errors import Throttled
from clouddeploy_providers.together import Together
from clouddeploy_rehearsal.probe import until


class Cloud:
    """Answers each question with its length, once it may."""

    def __init__(self):
        self.asked = []
        self.may_answer = threading.Event()
        self.error = None

    def __call__(self, keys):
        self.asked.append(list(keys))
        assert self.may_answer.wait(5)
        if self.error is not None:
            raise self.error
        return {key: len(key) for key in keys if key != "absent"}


def ask_during_the_first(cloud, keys, *, most=200):
    """Asks for `first`, and for all others while that question is under way; returns the answers' futures."""
    together, begun = Together(cloud, most=most), []
    with ThreadPoolExecutor(len(keys) + 1) as pool:
        futures = [pool.submit(together.get, "first")]
        until(lambda: cloud.asked)

        def get(key):
            begun.append(key)
            return together.get(key)

        futures += [pool.submit(get, key) for key in keys]
        until(lambda: len(begun) == len(keys))
        cloud.may_answer.set()
    return futures


def test_who_comes_while_a_question_is_under_way_shares_the_next():
    cloud = Cloud()
    futures = ask_during_the_first(cloud, ["a", "bb", "ccc", "absent"])
    assert [one.result() for one in futures] == [5, 1, 2, 3, None]
    assert cloud.asked[0] == ["first"]
    assert sorted(key for keys in cloud.asked[1:] for key in keys) == ["a", "absent", "bb", "ccc"]


def test_a_question_has_no_more_keys_than_the_cloud_takes():
    cloud = Cloud()
    ask_during_the_first(cloud, ["a", "b", "c", "d", "e"], most=2)
    assert max(map(len, cloud.asked)) <= 2
    assert sorted(key for keys in cloud.asked for key in keys) == ["a", "b", "c", "d", "e", "first"]


def test_everybody_who_shares_a_question_gets_its_failure_and_the_next_one_is_asked_anew():
    cloud = Cloud()
    cloud.error = Throttled("slower")
    for future in ask_during_the_first(cloud, ["a", "b"]):
        with pytest.raises(Throttled):
            future.result()
    cloud.error = None
    assert Together(cloud, most=2).get("bb") == 2

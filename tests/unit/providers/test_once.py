import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from clouddeploy_providers.once import Once


def test_many_want_to_know_and_one_asks():
    once, asked, barrier = Once(), [], threading.Barrier(8)

    def want(_):
        barrier.wait(timeout=5)
        return once.get("vpc", lambda: asked.append(1) or "vpc-1")

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(want, range(8))) == {"vpc-1"}
    assert len(asked) == 1


def test_a_question_that_failed_is_asked_again():
    once, answers = Once(), [OSError("not now"), "vpc-1"]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with pytest.raises(OSError, match="not now"):
        once.get("vpc", ask)
    assert once.get("vpc", ask) == "vpc-1"


def test_facts_of_different_keys_are_different():
    once = Once()
    assert [once.get(key, lambda key=key: key * 2) for key in (1, 2, 1)] == [2, 4, 2]

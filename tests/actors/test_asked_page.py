"""A page that another actor answers: one question at a time, however many ask."""

import queue
import threading

from actors.asked_page import AskedPage


def get_in_thread(page: AskedPage, got: list[bytes]) -> threading.Thread:
    thread = threading.Thread(target=lambda: got.append(page.get()))
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def test_who_asks_while_a_question_is_under_way_gets_its_answer() -> None:
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    page, got, numbers = AskedPage(asked.put, first_number=0), list[bytes](), list[int]()
    over = threading.Event()

    def answer() -> None:
        while not over.is_set():
            try:
                numbers.append(asked.get(timeout=0.05))
            except queue.Empty:
                continue
            over.wait(0.3)  # the others come meanwhile
            page.shown(numbers[-1], b"page")

    answering = threading.Thread(target=answer)
    answering.start()
    join(*(get_in_thread(page, got) for _ in range(20)))
    over.set()
    join(answering)
    assert got == [b"page"] * 20
    assert len(numbers) < 20
    assert numbers == sorted(set(numbers))


def test_the_answer_to_another_question_is_not_taken_and_the_next_question_is_a_new_one() -> None:
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    page, got = AskedPage(asked.put, first_number=7), list[bytes]()
    for number, body in ((8, b"one"), (9, b"two")):
        thread = get_in_thread(page, got)
        assert asked.get(timeout=5) == number
        page.shown(number - 1, b"late")
        page.shown(number, body)
        page.shown(number, b"again")
        join(thread)
    assert got == [b"one", b"two"]

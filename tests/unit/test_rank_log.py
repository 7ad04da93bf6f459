import io
from pathlib import Path

from aligntune.pod.rank_log import KEPT_BYTES, RankLog


def test_output_goes_to_the_file_and_through(tmp_path: Path) -> None:
    echo = io.BytesIO()
    log = RankLog(tmp_path / "rank-0.log", echo=echo)
    log.write(b"one\ntw")
    log.write(b"o\n")
    log.close()
    assert echo.getvalue() == b"one\ntwo\n"
    assert (tmp_path / "rank-0.log").read_bytes() == b"one\ntwo\n"


def test_prefix_stands_before_whole_lines_only(tmp_path: Path) -> None:
    echo = io.BytesIO()
    log = RankLog(tmp_path / "rank-0.log", echo=echo, prefix=b"[rank 0] ")
    for chunk in (b"on", b"e\ntwo\nthr", b"ee"):
        log.write(chunk)
    log.close()
    assert echo.getvalue() == b"[rank 0] one\n[rank 0] two\n[rank 0] three\n"


def test_a_second_start_of_the_same_attempt_keeps_the_first_log(tmp_path: Path) -> None:
    for text in (b"first\n", b"second\n"):
        log = RankLog(tmp_path / "rank-0.log")
        log.write(text)
        log.close()
    assert (tmp_path / "rank-0.log").read_bytes() == b"first\nsecond\n"


def test_a_terminal_that_takes_no_more_does_not_stop_the_log(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as terminal:
        log = RankLog(tmp_path / "rank-0.log", echo=terminal)
        log.write(b"one\n")
        log.write(b"two\n")
    assert (tmp_path / "rank-0.log").read_bytes() == b"one\ntwo\n"


def test_a_full_disk_does_not_stop_the_rank() -> None:
    log = RankLog(Path("/dev/full"))
    log.write(b"one\n")
    log.write(b"two\n")
    assert log.tail() == "one\ntwo"


def test_tail_shows_the_last_state_of_a_progress_bar_without_escapes(tmp_path: Path) -> None:
    log = RankLog(tmp_path / "rank-0.log")
    log.write(b" 10%\r 50%\r100%\r\n\x1b[31mValueError: no rows\x1b[0m\n")
    assert log.tail() == "100%\nValueError: no rows"


def test_no_half_of_a_secret_survives_at_the_start_of_the_tail(tmp_path: Path) -> None:
    log = RankLog(tmp_path / "rank-0.log")
    log.write(b"HF_TOKEN=hf_" + b"s3cret" * KEPT_BYTES + b"\nlast line\n")
    assert log.tail() == "last line"

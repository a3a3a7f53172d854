"""Ray as the package uses it, without it."""

from __future__ import annotations

from typing import Any


class OneProcess:
    """Ray as the package uses it, in this process; tasks run when they are asked for, actors live on."""

    class exceptions:  # noqa: N801 - as there
        class RayTaskError(Exception):
            pass

    def remote(self, **options: Any) -> Any:
        assert set(options) <= {"num_cpus", "num_gpus", "max_retries", "max_restarts", "max_task_retries"}
        return _Handle

    def put(self, value: Any) -> Any:
        return value

    def get(self, value: Any) -> Any:
        return value

    def wait(self, waiting: Any, num_returns: int) -> None:
        assert len(waiting) == num_returns

    def kill(self, actor: Any) -> None:
        pass


class _Handle:
    def __init__(self, made: Any) -> None:
        self._made = made

    def remote(self, *arguments: Any, **options: Any) -> Any:
        made = self._made(*arguments, **options)
        return _Handle(made) if isinstance(self._made, type) else made

    def __getattr__(self, name: str) -> Any:
        return _Handle(getattr(self._made, name))

"""A request as a value, and the decorator by which one declaration is a method of both clients."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload

if TYPE_CHECKING:
    from symadj.api.client.awaited import AsyncClient
    from symadj.api.client.blocking import Client

__all__ = ["Request", "asks", "asks_in_pages"]

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Request(Generic[T]):
    """What is sent, and how its answer is read.

    Attributes:
        method: of HTTP.
        path: below the server's URL.
        read: turns the content of the answer into what the caller gets.
        params: of the query.
        headers: beside the client's own.
        json: the body; or
        content: bytes, or a file, which is read as it is sent.
        timeout: seconds; None: the client's.
        makes_job: whether it has an Idempotency-Key, under which it is repeated until there is an answer.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    content: bytes | Path | None = None
    timeout: float | None = None
    makes_job: bool = False


class asks(Generic[P, T]):  # noqa: N801 - a decorator
    """Decorator: a function that returns a :class:`Request` becomes a method that returns its answer.

    On a ``Client`` the method returns when there is one, on an ``AsyncClient`` it is awaited.
    """

    def __init__(self, make: Callable[Concatenate[Any, P], Request[T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: Client, owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: None, owner: type[Client]) -> Callable[Concatenate[Client, P], T]: ...
    @overload
    def __get__(
        self, client: None, owner: type[AsyncClient]
    ) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]: ...
    def __get__(self, client: Any, owner: Any = None) -> Any:
        """Return the method of a client, or of its class."""

        @functools.wraps(self._make)
        def ask(client: Any, *arguments: P.args, **named: P.kwargs) -> Any:
            return client.send(self._make(client, *arguments, **named))

        return ask if client is None else MethodType(ask, client)


class asks_in_pages(Generic[P, T]):  # noqa: N801 - a decorator
    """Decorator: a generator of requests, which is sent the answer of each, becomes a method that iterates over these.

    On an ``AsyncClient`` the method is for ``async for``.
    """

    def __init__(self, make: Callable[Concatenate[Any, P], Generator[Request[T], T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: Client, owner: Any = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: Any = None) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, client: None, owner: type[Client]) -> Callable[Concatenate[Client, P], Iterator[T]]: ...
    @overload
    def __get__(
        self, client: None, owner: type[AsyncClient]
    ) -> Callable[Concatenate[AsyncClient, P], AsyncIterator[T]]: ...
    def __get__(self, client: Any, owner: Any = None) -> Any:
        """Return the method of a client, or of its class."""

        @functools.wraps(self._make)
        def ask(client: Any, *arguments: P.args, **named: P.kwargs) -> Any:
            return client.send_all(self._make(client, *arguments, **named))

        return ask if client is None else MethodType(ask, client)

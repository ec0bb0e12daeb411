"""Gives an operation its service, and the person who asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from chestmap.serving.engine.service import Service
from chestmap.serving.http.access import Person


def service_of(request: Request) -> Service:
    return request.app.state.service


def person_of(request: Request) -> Person:
    """Set by the guard; nobody gets so far without."""
    return request.state.person


Here = Annotated[Service, Depends(service_of)]
Asking = Annotated[Person, Depends(person_of)]

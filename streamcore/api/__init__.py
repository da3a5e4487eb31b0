"""The public API: what a user writes down becomes nodes; nothing runs here."""

from __future__ import annotations

from streamcore.api.aggregate import Aggregate as Aggregate
from streamcore.api.job import Job as Job
from streamcore.api.job import Start as Start
from streamcore.api.record import Context as Context
from streamcore.api.record import Key as Key
from streamcore.api.record import Record as Record
from streamcore.api.state import Map as Map
from streamcore.api.state import MapView as MapView
from streamcore.api.state import State as State
from streamcore.api.state import Value as Value
from streamcore.api.stream import KeyedStream as KeyedStream
from streamcore.api.stream import Stream as Stream
from streamcore.api.stream import Table as Table
from streamcore.api.topic import Codec as Codec
from streamcore.api.topic import Topic as Topic
from streamcore.api.topic import json as json
from streamcore.topology.nodes import DeadLetter as DeadLetter
from streamcore.topology.nodes import OnError as OnError
from streamcore.topology.nodes import Skip as Skip
from streamcore.topology.nodes import Stop as Stop

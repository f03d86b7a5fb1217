"""What a message of EnvoyActor's changes in what HealthActor knows and remembers. Pure."""

from actors.messages.envoy import Draining, EpochExited, EpochLive, EpochsHeld, EpochStarted
from pilot_agent.health.generations import Generations
from pilot_agent.status.history import History

EpochNews = EpochStarted | EpochLive | EpochExited | EpochsHeld | Draining


def step(message: EpochNews, state: Generations) -> Generations:
    """Return which generations there are after it."""
    match message:
        case EpochStarted():
            return state.started(message.generation, message.epoch, message.admin_port, message.pid)
        case EpochLive():
            return state.went_live(message.generation)
        case EpochExited():
            return state.exited(message.generation, message.status)
        case EpochsHeld():
            for each in message.started:
                state = state.started(each.generation, each.epoch, each.admin_port, each.pid)
            for generation in message.live_generations:
                state = state.went_live(generation)
            return state.held(tuple(each.generation for each in message.started))
        case Draining():
            return state.draining(message.cause)


def told(message: EpochNews, history: History, now_s: float) -> History:
    """Return what the status page remembers after it; `now_s` is the time, in seconds since the epoch."""
    match message:
        case EpochStarted():
            return history.started(message.generation, message.epoch, message.pid, now_s)
        case EpochLive():
            return history.went_live(message.generation, now_s)
        case EpochExited():
            return history.exited(message.generation, message.status, now_s)
        case EpochsHeld():
            held = {each.generation for each in message.started}
            for row in history.envoys:
                if row.generation not in held:
                    history = history.exited(row.generation, "ended while nobody looked", now_s)
            for each in message.started:
                history = history.started(each.generation, each.epoch, each.pid, now_s)
            for generation in message.live_generations:
                history = history.went_live(generation, now_s)
            return history
        case Draining():
            return history.with_event(now_s, "readiness", f"the agent is ending: {message.cause}", "warn")

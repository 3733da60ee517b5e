"""Episodes in parallel environments: what each trial asks for."""

from contextlib import closing

import numpy as np

from lib.agent.agents import Decision, Observed, ScriptAgent
from lib.agent.closed_loop import ClosedLoop, Trial, run_episodes
from lib.agent.vector import make_vector_env
from lib.sim.experts import FastScript
from lib.sim.stress import Stress


class Recorder:
    """An agent that does nothing and notes the preference of each robot at every step."""

    needs_pixels, weights = False, (1.0, 0.0, 0.0)

    def __init__(self):
        self.seen = []

    def reset(self):
        pass

    def act(self, images, proprio, expert_obs, previous_action, first, weights):
        self.seen.append((first.tolist(), weights[:, 2].tolist()))
        seen = Observed(np.zeros((2, 0)), np.zeros(2, int), np.zeros(2))
        return Decision(np.zeros((2, 4), np.float32), seen)


def test_robots_keep_the_preference_and_the_stress_of_their_trial():
    """Three trials for two robots; where none is asked for, the agent's own preference holds."""
    agent = Recorder()
    trials = [
        Trial(1, weights=(0.5, 0.0, 0.5)),
        Trial(2, stress=Stress(misgrasp=1.0)),
        Trial(3, weights=(0.75, 0.0, 0.25)),
    ]
    env = make_vector_env(2, render=False, horizon=10)
    with closing(env):
        runs = run_episodes(env, agent, trials)
    assert [t.trial for t in runs] == trials
    assert [t.number for t in runs] == [0, 1, 2]
    assert agent.seen[0] == ([True, True], [0.5, 0.0])
    assert agent.seen[9] == ([False, False], [0.5, 0.0])
    assert agent.seen[10][1] == [0.25, 0.0]
    with closing(make_vector_env(1, render=False, horizon=10)) as alone:
        again = run_episodes(alone, ScriptAgent(FastScript()), trials[1:2])
        nominal = run_episodes(alone, ScriptAgent(FastScript()), [Trial(2)])
    assert np.abs(np.array(again[0].action) - np.array(nominal[0].action)).max() > 0.1


def test_a_trial_ends_at_its_own_horizon():
    """However long the environment would go on."""
    trials = [Trial(1, horizon=4), Trial(2, horizon=7), Trial(3)]
    with closing(make_vector_env(2, render=False, horizon=10)) as env:
        runs = run_episodes(env, Recorder(), trials)
    assert [len(run.success) for run in runs] == [4, 7, 10]


def test_the_learner_works_while_the_robots_move():
    """Once a step, between sending the actions and taking what came of them; motion is the same."""
    order, trials = [], [Trial(1), Trial(2)]

    class Watched(Recorder):
        def act(self, *arguments):
            order.append("act")
            return super().act(*arguments)

    env = make_vector_env(2, render=False, horizon=10)
    with closing(env):
        alone = run_episodes(env, Recorder(), trials)
        wait = env.step_wait
        env.step_wait = lambda: (order.append("wait"), wait())[1]
        loop, runs = ClosedLoop(env, Watched(), trials), []
        while not loop.idle:
            runs += loop.step(meanwhile=lambda: order.append("learn"))
    assert order == ["act", "learn", "wait"] * 10
    assert [t.energy_j for t in runs] == [t.energy_j for t in alone]

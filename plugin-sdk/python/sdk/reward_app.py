"""The component's exports: a reward. Not for plugin authors."""

import trainer_plugin as sdk
from trainer_glue import Exported, rows
from wit_world.exports.rewards import Part, RowScore


class Rewards(Exported.of(sdk.Reward)):
    def score(self, batch):
        return [row_score(type(self).instance.score(row)) for row in rows(batch)]


def row_score(score):
    if isinstance(score, sdk.Score):
        parts = [Part(name, float(value)) for name, value in score.parts.items()]
        return RowScore(None if score.value is None else float(score.value), parts)
    return RowScore(None if score is None else float(score), [])

"""A report without pictures: drawing them takes a second or more."""

from streamtrain.report.render import Drawing, Drawn


class Undrawn(Drawing):
    """Draws nothing, and starts no process. The page has no script and shows no charts."""

    def __enter__(self):
        return self

    def draw(self, charts):
        return Drawn(pictures={}, bundle="")

"""What authors of the course need: lessons derived from solutions, the course as pages, weights that come with it.

    notebooks   read, run and tidy a notebook
    lessons     lessons/ from solutions/, with nbgrader's preprocessors
    course      every solution run, a page for each, with nbconvert
    shipping    weights from a run, for `pretrained.load` to find

nbgrader and nbconvert come with `pip install -e ".[authoring]"`; learners do not need them.
"""

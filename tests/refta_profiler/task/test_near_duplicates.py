from refta_profiler.task.near_duplicates import draw, pairs, together


def test_a_document_is_one_group_and_near_duplicates_join_documents():
    texts = ["one two three four", "another thing", "One, two, three - FOUR!", "by itself"]
    assert together(texts, ["a", "a", "b", "c"]) == [0, 0, 0, 3]


def test_groups_join_through_a_chain():
    texts = ["a b c d e f", "a b c d e g", "a b c d h g", "z y x"]
    assert together(texts, range(4), similar=0.7) == [0, 0, 0, 3]


def test_pairs_are_those_of_every_comparison():
    texts = ["a b c d", "a b c", "a b", "c d e f", "b c d", ""]
    sets = [set(text.split()) for text in texts]
    every = {(i, j) for j in range(6) for i in range(j) if sets[i] | sets[j] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.6}
    assert set(pairs(texts, similar=0.6)) == every


def test_signs_alone_are_themselves():
    assert list(pairs([":)", ":(", ":)"])) == [(0, 2)]


def test_a_draw_is_the_same_everywhere():
    assert draw("side 1") == draw("side 1") != draw("side 2")
    assert 0 <= draw("side 1") < 1

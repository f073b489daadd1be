from choices import CANDIDATES, Choice, read_choices

HEADER = "plan,method,learning_rate,head_learning_rate,num_rounds,accuracy,nll,cpu_seconds\n"


def test_the_least_validation_nll_wins_whatever_the_accuracy(tmp_path):
    file = tmp_path / "tuning.csv"
    rows = "a,probe,0.001,0.003,10,0.5,2.0,1\na,probe,0.001,0.006,10,0.4,1.9,1\na,probe,0.001,0.01,20,0.6,2.1,1\n"
    file.write_text("# a comment\n" + HEADER + rows)
    assert read_choices(file) == {"a": {"probe": Choice(0.001, 0.006, 10)}}


def test_without_a_table_of_tries_nothing_is_chosen(tmp_path):
    assert read_choices(tmp_path / "absent.csv") == {}


def test_no_candidate_is_tried_twice():
    assert len(set(CANDIDATES)) == len(CANDIDATES)

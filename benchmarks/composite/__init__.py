"""A composite: the arrivals of a real project, dealt out to repositories that never were, with troubles put in.

No public set of data holds many repositories, their failures and what was behind them. So this takes from each what it
has and draws the rest, and whatever is made of it is called a composite:

real        when 19,198 jobs of one large project started, within 5.2 hours, their names, and which of them failed
drawn       all else: repositories and platforms, commits and branches, how long a job waits and takes, what a failure
            says; and the troubles, of which all is known

    arrivals.py     the job starts, from job_stream.parquet, or drawn for tests
    runs.py         each start as one run of one job
    troubles.py     what is put in, and what is thereby true
    telling.py      runs as events
    judging.py      the backtest, and what each finding rests on
    live.py         the same entries through the live flow at many times their speed
"""

"""Long-term dependencies: how far a model carries the number of a subject to its verb.

    the cat, dogs already ate a bunch of food was full
    the cats, dogs already ate a bunch of food were full

Only the subject decides between "was" and "were" (d2l, chapter "Modern Recurrent Neural Networks", has such a cat).
The words in between give no clue, so that the distance can be set in characters. A model that has lost the subject is
right half of the time.

    sentences   the language: a subject, a gap of a given length, a verb
    config      everything that determines the results
    training    training one model on whole sentences
    accuracy    how often a model prefers the right verb
    experiment  MLP, RNN, GRU and LSTM of equal size, trained alike and measured by distance
    report      progress, tables and JSON
    picture     the plot
    cli         the command `segue agreement`
"""

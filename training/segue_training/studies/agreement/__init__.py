"""Long-term dependencies, shown: how far a model carries the number of a subject to its verb.

    the cat, dogs already ate a bunch of food was full
    the cats, dogs already ate a bunch of food were full

Only the subject decides between "was" and "were" (d2l, chapter "Modern Recurrent Neural Networks", has such a cat).
The words in between hold no clue, so that the distance can be set to the character. A model that has lost the
subject is right half of the time.

    sentences   the language: a subject, a gap of so many characters, a verb
    config      everything that decides the results
    training    one model, trained on whole sentences
    accuracy    how often a model holds the right verb to be the likelier one
    experiment  MLP, RNN, GRU and LSTM of one size, trained alike and measured by distance
    table       the results as a table and as JSON
    progress    what a person sees meanwhile
    picture     the results as a plot
    cli         the command `segue agreement`
"""

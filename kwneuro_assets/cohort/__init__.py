"""Operations over many subjects: status, selection, runs, comparison and pruning."""

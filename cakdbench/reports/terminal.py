class BoardView:
    pass

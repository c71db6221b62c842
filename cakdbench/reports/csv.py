def board_csv(board):
    raise NotImplementedError

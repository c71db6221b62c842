def board_latex(board):
    raise NotImplementedError

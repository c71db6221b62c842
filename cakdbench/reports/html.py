def board_html(board):
    raise NotImplementedError

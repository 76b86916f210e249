"""How good a picture is: the very stages that ship, over benchmark sets."""
